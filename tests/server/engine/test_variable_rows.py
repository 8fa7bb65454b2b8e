"""Rows of variable size in their slots."""

from types import SimpleNamespace

import numpy as np
import pytest
from arenas import arena_spec, mapped, open_arena
from ensembled_client.wire import join_elements

from server.engine.variable_rows import VariableRows
from workers.runtime.spec import TensorSpec

MEL = TensorSpec("mel", "FP32", (2, -1), (2, 5), ("", "mel.2"))
MASK = TensorSpec("mask", "INT64", (-1,), (5,), ("mel.2",))
TEXT = TensorSpec("text", "BYTES", (), (), ("text.bytes",), 12)
FIXED = TensorSpec("x", "INT32", (3,))
SPEC = arena_spec(views=(MEL, MASK, TEXT, FIXED), masks=(1,))


@pytest.fixture
def arena():
    with mapped(SPEC) as memory:
        opened = open_arena(memory)
        for view in opened.views:
            view[...] = 7
        yield opened


def request(dims, **inputs):
    names = [view.name for view in SPEC.views]
    stored = [(names.index(name), memoryview(data)) for name, data in inputs.items()]
    return SimpleNamespace(inputs=stored, prepared=SimpleNamespace(dims=np.array(dims)))


def test_rows_lie_in_the_corner_of_their_slots(arena):
    mel = np.arange(18, dtype=np.float32).reshape(3, 2, 3)
    texts = [join_elements([text]) for text in (b"a", b"", b"long")]
    sizes = [len(text) for text in texts]
    wanted = request([[3] * 3, sizes], mel=mel.tobytes(), text=b"".join(texts))
    rows = VariableRows(arena)
    rows.write(wanted, slot=4, offset=0, count=1)
    rows.write(wanted, slot=8, offset=1, count=2)
    slots = [4, 8, 9]
    np.testing.assert_array_equal(arena.views[0][slots, :, :3], mel)
    assert (arena.views[0][slots, :, 3:] == 7).all()
    assert arena.dims[:, slots].tolist() == [[3, 3, 3], sizes]
    stored = [bytes(arena.views[2][slot, :size]) for slot, size in zip(slots, sizes, strict=True)]
    assert stored == texts
    assert (arena.views[2][8, sizes[1] :] == 7).all()
    assert (arena.views[3] == 7).all(), "an input that was not sent"


def test_a_mask_is_ones_unless_it_is_sent(arena):
    rows = VariableRows(arena)
    rows.write(request([[2], [0]], mel=bytes(16)), slot=0, offset=0, count=1)
    sent = np.array([[1, 0]], np.int64)
    rows.write(request([[2], [0]], mel=bytes(16), mask=sent.tobytes()), slot=1, offset=0, count=1)
    assert arena.views[1][:2].tolist() == [[1, 1, 7, 7, 7], [1, 0, 7, 7, 7]]


def test_a_fixed_input_beside_variable_ones(arena):
    x = np.arange(6, dtype=np.int32)
    rows = VariableRows(arena)
    rows.write(request([[1, 1], [0, 0]], x=x.tobytes()), slot=2, offset=0, count=2)
    np.testing.assert_array_equal(arena.views[3][2:4], x.reshape(2, 3))
