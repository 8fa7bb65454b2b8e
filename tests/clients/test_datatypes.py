import ml_dtypes
import numpy as np
import pytest
from ensembled_client.datatypes import (
    DTYPES,
    convert,
    decode,
    join_elements,
    raw_bytes,
    split_elements,
)
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.floats(width=32), min_size=1))
def test_bfloat16_is_rounded_as_others_round_it(values):
    x = np.array(values, np.float32)
    with np.errstate(all="ignore"):
        expected = x.astype(ml_dtypes.bfloat16)
    given_ = convert(x, "BF16")
    assert given_.dtype == np.uint16
    ours = given_.view(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(ours, expected.astype(np.float32), equal_nan=True)
    assert np.array_equal(decode("BF16", x.shape, raw_bytes(given_)), ours, equal_nan=True)


def test_bfloat16_of_others_is_taken_as_it_is():
    x = np.array([1.5, -2.0, np.inf], ml_dtypes.bfloat16)
    assert convert(x, "BF16").tolist() == x.view(np.uint16).tolist()
    assert convert(x, "FP32").tolist() == [1.5, -2.0, np.inf]


def test_bfloat16_takes_other_numbers():
    x = np.arange(4).reshape(2, 2)
    for dtype in (np.int64, np.float64, np.float16, np.uint8):
        assert decode("BF16", (2, 2), raw_bytes(convert(x.astype(dtype), "BF16"))).tolist() == (
            x.tolist()
        )
    assert convert(np.float32(1), "BF16").shape == ()


@pytest.mark.parametrize("datatype", sorted(DTYPES.keys() - {"BF16"}))
def test_there_and_back(datatype):
    x = np.array([[0, 1], [1, 0]]).astype(DTYPES[datatype])
    assert (decode(datatype, (2, 2), raw_bytes(convert(x, datatype))) == x).all()


@given(st.lists(st.binary(max_size=20)))
def test_elements_there_and_back(elements):
    assert split_elements(join_elements(elements)) == elements
    assert decode("BYTES", (len(elements),), join_elements(elements)).tolist() == elements


@given(st.lists(st.binary(max_size=5), min_size=1), st.integers(1, 4))
def test_elements_that_are_cut_short(elements, missing):
    raw = join_elements([*elements, b"four"])[:-missing]
    with pytest.raises(ValueError, match="cut short"):
        split_elements(raw)
