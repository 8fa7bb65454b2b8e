import numpy as np
from arenas import arena_spec, mapped, open_arena

from workers.profiler.process import fill_rows, write_example
from workers.runtime.spec import Binding, InstanceSpec, ModelSignature, ModelSource, TensorSpec


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


def test_a_model_s_own_example_stands_in_every_row():
    views = (
        TensorSpec("city", "BYTES", (), symbols=("city.bytes",), max_bytes=12),
        TensorSpec("age", "FP64", ()),
    )
    with mapped(arena_spec(views=views)) as memory:
        arena = open_arena(memory)
        fill_rows(arena)
        inputs = (TensorSpec("age", "FP32", ()), TensorSpec("city", "BYTES", ()))
        spec = InstanceSpec(
            arena=0,
            member=0,
            batch=2,
            source=ModelSource("m", "python"),
            signature=ModelSignature(inputs, (TensorSpec("y", "FP32", ()),), 0),
            bindings=(Binding(1), Binding(0)),
            outputs=(),
        )
        write_example(arena, spec, [np.array([41.5]), np.array([b"Rome"], object)])
        assert set(arena.views[1]) == {41.5}
        assert {bytes(row[:8]) for row in arena.views[0]} == {b"\x04\0\0\0Rome"}
        assert set(arena.dims[0]) == {8}
