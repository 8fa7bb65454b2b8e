import struct

import numpy as np
import pytest
from ensembled_client.wire import DTYPES, datatype_of, join_elements
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from server.errors import InvalidRequest
from server.inference.tensors import tensor_from_bytes

shapes = arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)
tensors = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: arrays.arrays(DTYPES[name], shapes).map(lambda array: (name, array))
)


def same(tensor, name, array):
    assert (tensor.datatype, tuple(tensor.shape)) == (name, array.shape)
    assert tensor.array.dtype == DTYPES[name]
    assert tensor.array.shape == array.shape
    np.testing.assert_array_equal(tensor.array, array)


@given(tensors)
def test_raw_bytes_come_back_as_they_were(given):
    name, array = given
    same(tensor_from_bytes("x", name, list(array.shape), array.tobytes()), name, array)


def test_bf16_keeps_its_bits():
    assert datatype_of(np.uint16) == "UINT16"
    bits = np.array([0x3F80, 0xC000, 0x7FC0], np.uint16)  # 1, -2, not a number
    same(tensor_from_bytes("x", "BF16", [3], bits.tobytes()), "BF16", bits)


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_bytes_elements_come_back_as_they_were(elements):
    wire = join_elements(elements)
    tensor = tensor_from_bytes("x", "BYTES", [len(elements)], wire)
    assert [bytes(element) for element in tensor.elements] == elements
    assert tensor.array is None


def test_no_copy_of_raw_bytes_is_made():
    data = np.arange(6, dtype=np.float32)
    tensor = tensor_from_bytes("x", "FP32", [2, 3], memoryview(data).cast("B"))
    assert np.shares_memory(tensor.array, data)


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP32", [2], bytes(7)),
        ("FP32", [2], bytes(12)),
        ("FP32", [-2], bytes(8)),
        ("FP32", [-1, -2], bytes(8)),
        ("FP32", [2**63], bytes(8)),
        ("FP32", [2**62], bytes(8)),
        ("FP32", [2**32, 2**32], b""),
        ("FP32", [2**63, 0], b""),
        ("FP32", [0, 2**63], b""),
        ("FP32", [1] * 100, bytes(4)),
        ("FP32", [0] * 100, b""),
        ("BF16", [2], bytes(8)),
        ("FP8", [2], bytes(2)),
        ("fp32", [2], bytes(8)),
        ("", [2], bytes(8)),
        ("BYTES", [1], b"\x05\x00\x00\x00abc"),
        ("BYTES", [1], b"\x05\x00"),
        ("BYTES", [1], struct.pack("<I", 2**32 - 1) + b"abc"),
        ("BYTES", [2], join_elements([b"a"])),
        ("BYTES", [1], join_elements([b"a", b"b"])),
        ("BYTES", [0], join_elements([b"a"])),
        ("BYTES", [2**63], join_elements([b"a"])),
        ("BYTES", [-1], join_elements([b"a"])),
        ("BYTES", [1], b""),
    ],
)
def test_raw_bytes_that_do_not_fit_are_refused(datatype, shape, data):
    with pytest.raises(InvalidRequest, match="'x'") as refusal:
        tensor_from_bytes("x", datatype, shape, data)
    assert "\n" not in str(refusal.value)


any_shape = st.lists(st.integers(-2, 4) | st.integers(-(2**70), 2**70), max_size=4)
any_datatype = st.sampled_from([*DTYPES, "BYTES", "BF16", "", "FP33"])


@given(any_datatype, any_shape, st.binary(max_size=40))
def test_any_bytes_make_a_tensor_or_an_invalid_request(datatype, shape, data):
    try:
        tensor = tensor_from_bytes("x", datatype, shape, data)
    except InvalidRequest:
        return
    if tensor.array is not None:
        assert (list(tensor.array.shape), tensor.array.dtype) == (shape, DTYPES[datatype])


def test_no_tensor_of_bytes_is_made_of_millions_of_objects():
    with pytest.raises(InvalidRequest, match="more than 16384 elements"):
        tensor_from_bytes("x", "BYTES", [70_000], bytes(4 * 70_000))
    assert len(tensor_from_bytes("x", "BYTES", [16_384], bytes(4 * 16_384)).elements) == 16_384
