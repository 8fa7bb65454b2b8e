"""The largest sizes of variable dimensions, and which outputs follow them."""

from __future__ import annotations

import numpy as np
import pytest

from workers.backends.sizes import (
    SizesError,
    bounded_inputs,
    following_output,
    plain_rows,
    probe_sizes,
)
from workers.runtime.spec import InputLimit, TensorSpec

IDS = TensorSpec("ids", "INT64", (-1,), (0,), ("seq",))
MASK = TensorSpec("mask", "INT64", (-1,), (0,), ("seq",))
MEL = TensorSpec("mel", "FP32", (80, -1), (80, 0), ("", "frames"))
PLANE = TensorSpec("plane", "FP32", (-1, -1), (0, 0), ("height", "width"))
TEXT = TensorSpec("text", "BYTES", (2,))
FIXED = TensorSpec("x", "FP32", (4,))


def test_a_size_is_given_once_for_inputs_that_share_it() -> None:
    ids, mask, fixed = bounded_inputs("m", (IDS, MASK, FIXED), (InputLimit("mask", (128,)),))
    assert ids.max_shape == mask.max_shape == (128,)
    assert ids.row_bytes == 128 * 8
    assert fixed == FIXED


@pytest.mark.parametrize("given", [(3000,), (80, 3000)])
def test_max_shape_has_all_dimensions_or_the_variable_ones(given: tuple[int, ...]) -> None:
    (mel,) = bounded_inputs("m", (MEL,), (InputLimit("mel", given),))
    assert mel.max_shape == (80, 3000)


def test_the_models_own_limit_counts() -> None:
    own = TensorSpec("ids", "INT64", (-1,), (64,), ("seq",))
    assert bounded_inputs("m", (own,), ())[0].max_shape == (64,)
    assert bounded_inputs("m", (own,), (InputLimit("ids", (32,)),))[0].max_shape == (32,)
    with pytest.raises(SizesError, match="max_shape: 65, but the model takes 64 at most"):
        bounded_inputs("m", (own,), (InputLimit("ids", (65,)),))


def test_bytes_have_a_size_with_their_lengths() -> None:
    (text,) = bounded_inputs("m", (TEXT,), (InputLimit("text", max_bytes=100),))
    assert (text.max_bytes, text.symbols) == (100 + 2 * 4, ("", "text.bytes"))
    assert (text.stored_shape, text.dtype, text.limits) == ((108,), np.uint8, {"text.bytes": 108})


@pytest.mark.parametrize(
    ("tensor", "limits", "reason"),
    [
        (IDS, (), "dimension 1 of input 'ids' is variable (seq): give its largest size by "),
        (FIXED, (InputLimit("x", (4,)),), "inputs.x.max_shape: the model's input is fixed, [4]"),
        (MEL, (InputLimit("mel", (81, 9)),), "[81, 9] does not fit the model's [80, -1]"),
        (PLANE, (InputLimit("plane", (9,)),), "does not fit the model's [-1, -1]"),
        (TEXT, (), "give the most bytes of a row by members.m.inputs.text.max_bytes"),
        (FIXED, (InputLimit("x", max_bytes=9),), "max_bytes: is for BYTES, the model takes FP32"),
    ],
)
def test_what_is_refused(tensor: TensorSpec, limits: tuple[InputLimit, ...], reason: str) -> None:
    with pytest.raises(SizesError) as caught:
        bounded_inputs("m", (tensor,), limits)
    assert reason in str(caught.value)


def test_equal_dimensions_have_one_size() -> None:
    with pytest.raises(SizesError, match=r"mask.max_shape: 9, but 8 for the same dimension \(seq"):
        bounded_inputs("m", (IDS, MASK), (InputLimit("ids", (8,)), InputLimit("mask", (9,))))


def test_probes_halve_one_dimension_at_a_time() -> None:
    (plane,) = bounded_inputs("m", (PLANE,), (InputLimit("plane", (9, 4)),))
    assert probe_sizes((plane,)) == [
        {"height": 9, "width": 4},
        {"height": 5, "width": 4},
        {"height": 9, "width": 2},
    ]
    assert probe_sizes((FIXED,)) == [{}]


def test_rows_that_any_model_takes() -> None:
    ids, fixed = bounded_inputs("m", (IDS, FIXED), (InputLimit("ids", (3,)),))
    assert plain_rows(ids, 2).tolist() == [[1, 1, 1]] * 2
    assert plain_rows(fixed, 1).tolist() == [[0, 0, 0, 0]]
    assert plain_rows(TEXT, 1).tolist() == [[b"", b""]]


SIZES = [{"height": 9, "width": 9}, {"height": 5, "width": 9}, {"height": 9, "width": 5}]


def test_outputs_follow_an_input() -> None:
    output = TensorSpec("y", "FP32", (3, 9, 9))
    found = following_output(output, [(3, 9, 9), (3, 9, 5), (3, 5, 9)], SIZES)
    assert found == TensorSpec("y", "FP32", (3, -1, -1), (3, 9, 9), ("", "width", "height"))
    assert following_output(output, [(3, 9, 9)] * 3, SIZES) == output


def test_an_output_that_varies_otherwise_is_refused() -> None:
    output = TensorSpec("y", "FP32", (4,))
    with pytest.raises(SizesError, match=r"dimension 1 of output 'y' varies \(4, 2, 4\)"):
        following_output(output, [(4,), (2,), (4,)], SIZES)
    with pytest.raises(SizesError, match="another number of dimensions"):
        following_output(output, [(4,), (4, 1), (4,)], SIZES)
