"""The sizes of a request's rows, and the length class that holds them."""

import numpy as np
import pytest
from ensembled_client.wire import join_elements

from server.engine.spec import ServedModel
from server.errors import InvalidRequest
from server.inference.binding import bind_tensors
from server.inference.lengths import bind_sizes
from server.inference.spec import InputSpec, LengthClass, ModelSpec, StoredView
from server.inference.tensors import tensor_from_bytes
from workers.runtime.spec import EnsembleSpec, TensorSpec

ENSEMBLE = EnsembleSpec("m", (0, 1), "mean", (), 1, TensorSpec("output", "FP32", ()))
IDS = TensorSpec("ids", "INT64", (-1,), (16,), ("ids.1",))
MASK = TensorSpec("mask", "INT64", (-1,), (16,), ("ids.1",))
MEL = TensorSpec("mel", "FP32", (2, -1), (2, 32), ("", "mel.2"))
TEXT = TensorSpec("text", "BYTES", (2,), (), ("", "text.bytes"), 24)
SYMBOLS = ("ids.1", "mel.2", "text.bytes")
BOUNDS = [(4, 8, 12), (8, 16, 16), (16, 32, 24)]


def model(*tensors, optional=()):
    inputs = tuple(
        InputSpec(tensor, (StoredView(view, 0b11),), is_optional=tensor.name in optional)
        for view, tensor in enumerate(tensors)
    )
    classes = tuple(
        LengthClass(bounds, ServedModel(arena, 0, ENSEMBLE)) for arena, bounds in enumerate(BOUNDS)
    )
    return ModelSpec(classes[-1].served, inputs, ("a", "b"), symbols=SYMBOLS, lengths=classes)


def numbers(name, *shape, datatype="INT64"):
    size = int(np.prod(shape)) * (8 if datatype == "INT64" else 4)
    return tensor_from_bytes(name, datatype, shape, bytes(size))


def texts(*rows):
    data = join_elements([text for row in rows for text in row])
    return tensor_from_bytes("text", "BYTES", [len(rows), 2], data)


def bound(spec, *tensors, members=-1):
    rows, stored = bind_tensors(spec, tensors, members)
    served, dims = bind_sizes(spec, tensors, rows, members)
    return served.arena, dims.tolist(), [view for view, _ in stored]


@pytest.mark.parametrize(("length", "arena"), [(1, 0), (4, 0), (5, 1), (8, 1), (9, 2), (16, 2)])
def test_the_smallest_class_that_holds_the_rows(length, arena):
    assert bound(model(IDS), numbers("ids", 2, length)) == (
        arena,
        [[length] * 2, [0] * 2, [0] * 2],
        [0],
    )


def test_the_largest_size_decides():
    mel = numbers("mel", 1, 2, 32, datatype="FP32")
    assert bound(model(IDS, MEL), numbers("ids", 1, 1), mel)[:2] == (2, [[1], [32], [0]])


def test_the_largest_text_decides():
    arena, dims, _ = bound(model(TEXT), texts([b"", b""], [b"abc", b"d"]))
    assert (arena, dims[2]) == (0, [8, 12])
    assert bound(model(TEXT), texts([b"", b""], [b"abc", b"de"]))[0] == 1


def test_texts_are_stored_as_on_the_wire():
    _, stored = bind_tensors(model(TEXT), [texts([b"a", b"bc"])])
    assert bytes(stored[0][1]) == join_elements([b"a", b"bc"])


def test_a_mask_may_be_left_out():
    with pytest.raises(InvalidRequest, match="'mask' is missing"):
        bound(model(IDS, MASK), numbers("ids", 1, 3))
    spec = model(IDS, MASK, optional=["mask"])
    assert bound(spec, numbers("ids", 1, 3)) == (0, [[3], [0], [0]], [0])
    assert bound(spec, numbers("ids", 1, 3), numbers("mask", 1, 3))[2] == [0, 1]


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ([numbers("ids", 1, 17)], r"'ids' has the shape \[1, 17\]: dimension 1 should be 1 to 16"),
        ([numbers("ids", 3, 0)], r"'ids' has the shape \[3, 0\]: dimension 1 should be 1 to 16"),
        ([numbers("ids", 0, 4)], "'ids' has zero rows"),
        ([numbers("ids", 4)], r"'ids' has shape \[-1, -1\], the request has \[4\]"),
        ([numbers("ids", 1, 4, 1)], r"'ids' has shape \[-1, -1\], the request has \[1, 4, 1\]"),
    ],
)
def test_sizes_that_do_not_fit(tensors, complaint):
    with pytest.raises(InvalidRequest, match=complaint):
        bound(model(IDS), *tensors)


def test_fixed_dimensions_and_limits_of_others():
    with pytest.raises(InvalidRequest, match=r"'mel' has shape \[-1, 2, -1\], .* \[1, 3, 5\]"):
        bound(model(MEL), numbers("mel", 1, 3, 5, datatype="FP32"))
    with pytest.raises(InvalidRequest, match="dimension 2 should be 1 to 32"):
        bound(model(MEL), numbers("mel", 1, 2, 33, datatype="FP32"))
    with pytest.raises(InvalidRequest, match="row 1 has 17 bytes of text, at most 16 are allowed"):
        bound(model(TEXT), texts([b"", b""], [b"x" * 16, b"y"]))


def test_inputs_that_should_be_equally_large():
    complaint = r"'mask' has the shape \[1, 4\]: dimension 1 should be 3, as in input 'ids'"
    with pytest.raises(InvalidRequest, match=complaint):
        bound(model(IDS, MASK), numbers("ids", 1, 3), numbers("mask", 1, 4))
