import numpy as np
from arenas import arena_spec, mapped, open_arena

from workers.profiler.process import fill_rows
from workers.runtime.spec import TensorSpec


def test_rows_are_filled_with_what_requests_could_look_like():
    views = (
        TensorSpec("image", "UINT8", (4, 4, 3)),
        TensorSpec("index", "INT64", (3,)),
        TensorSpec("half", "FP16", (2,)),
        TensorSpec("number", "FP64", ()),
    )
    with mapped(arena_spec(views=views)) as memory:
        arena = open_arena(memory)
        for view in arena.views:
            view[...] = 1
        fill_rows(arena)
        image, index, half, number = arena.views
        assert len(np.unique(image)) > 200
        assert (index == 0).all()
        for floats in (half, number):
            assert ((floats >= 0) & (floats <= 1)).all()
            assert len(np.unique(floats)) > 16
