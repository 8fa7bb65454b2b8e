"""What a model is given: pixels scaled, and types converted to its own."""

import numpy as np
import pytest
import torch
from ensembled_client.wire import DTYPES
from hypothesis import given
from hypothesis import strategies as st

from workers.runtime.spec import Scaling
from workers.worker.inputs import ModelInput, convert, scale

SCALING = Scaling((127, 127, 127), (128, 128, 128), "nchw")


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_pixels_are_scaled_per_channel(layout):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    mean, std = (123.5, 116.25, 103.0), (58.5, 57.0, 60.25)
    scaled = scale(pixels, Scaling(mean, std, layout))
    wanted = (pixels.astype(np.float64) - mean) / std
    if layout == "nchw":
        wanted = wanted.transpose(0, 3, 1, 2)
    assert scaled.dtype == np.float32
    assert scaled.flags.c_contiguous
    np.testing.assert_allclose(scaled, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("stored", "own"), [("FP32", "FP16"), ("FP16", "FP32"), ("FP64", "FP32"), ("UINT8", "FP16")]
)
def test_what_is_stored_in_another_type_is_converted(stored, own):
    values = np.array([[0, 1], [2, 255]], DTYPES[stored])
    converted = convert(values, stored, own)
    assert converted.dtype == DTYPES[own]
    np.testing.assert_array_equal(converted, values)


def test_what_is_too_large_becomes_infinite():
    values = np.array([[1e300, -1e300, 1.5]])
    for own in ("FP16", "FP32"):
        assert convert(values, "FP64", own).tolist() == [[np.inf, -np.inf, 1.5]]
    assert convert(values, "FP64", "BF16").tolist() == [[0x7F80, 0xFF80, 0x3FC0]]


@given(st.lists(st.floats(width=32), min_size=1, max_size=20))
def test_bf16_is_rounded_as_torch_does(numbers):
    values = np.array([numbers], np.float32)
    bits = convert(values, "FP32", "BF16")
    wanted = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    assert bits.dtype == np.uint16
    np.testing.assert_array_equal(convert(bits, "BF16", "FP32"), wanted)
    assert np.isnan(convert(bits, "BF16", "FP64")).tolist() == np.isnan(values).tolist()


def test_rows_of_the_models_own_type_are_not_copied():
    view = np.arange(12, dtype=np.float32).reshape(4, 3)
    read = ModelInput(view, "FP32", None, "FP32").read(slice(1, 3))
    assert np.shares_memory(read, view)
    half = ModelInput(view, "FP32", None, "FP16").read(np.array([3, 0]))
    assert half.tolist() == [[9, 10, 11], [0, 1, 2]]


def test_pixels_for_a_model_in_half_precision():
    view = np.full((1, 2, 2, 3), 255, np.uint8)
    half = ModelInput(view, "UINT8", SCALING, "FP16").read(slice(0, 1))
    assert (half.dtype, half.shape, half[0, 0, 0, 0]) == (np.float16, (1, 3, 2, 2), 1.0)


@pytest.mark.parametrize(
    ("stored", "own", "is_random"),
    [("FP32", "FP16", True), ("FP16", "FP32", True), ("INT64", "INT64", False)],
)
def test_random_rows_are_of_the_models_type(stored, own, is_random):
    view = np.zeros((4, 3), DTYPES[stored])
    rows = ModelInput(view, stored, None, own).random(2, np.random.default_rng(0))
    assert (rows.shape, rows.dtype) == ((2, 3), DTYPES[own])
    assert rows.any() == is_random
    images = ModelInput(np.zeros((4, 2, 2, 3), np.uint8), "UINT8", SCALING, "FP32")
    assert images.random(2, np.random.default_rng(0)).std() > 0.1
