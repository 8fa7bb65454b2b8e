import json

import ml_dtypes
import numpy as np
import pytest
from ensembled_client.wire import (
    DTYPES,
    WireError,
    cast,
    datatype_of,
    decode_array,
    decode_json,
    encode_array,
    encode_json,
    join_elements,
    split_elements,
)
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.floats(width=32), min_size=1))
def test_bfloat16_is_rounded_as_others_round_it(values):
    x = np.array(values, np.float32)
    with np.errstate(all="ignore"):
        expected = x.astype(ml_dtypes.bfloat16)
    given_ = cast(x, "BF16")
    assert given_.dtype == np.uint16
    ours = given_.view(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(ours, expected.astype(np.float32), equal_nan=True)
    assert np.array_equal(decode_array("BF16", x.shape, encode_array(given_)), ours, equal_nan=True)


def test_bfloat16_of_others_is_taken_as_it_is():
    x = np.array([1.5, -2.0, np.inf], ml_dtypes.bfloat16)
    assert cast(x, "BF16").tolist() == x.view(np.uint16).tolist()
    assert cast(x, "FP32").tolist() == [1.5, -2.0, np.inf]


def test_bfloat16_takes_other_numbers():
    x = np.arange(4).reshape(2, 2)
    for dtype in (np.int64, np.float64, np.float16, np.uint8):
        assert decode_array(
            "BF16", (2, 2), encode_array(cast(x.astype(dtype), "BF16"))
        ).tolist() == (x.tolist())
    assert cast(np.float32(1), "BF16").shape == ()


@pytest.mark.parametrize("datatype", sorted(DTYPES.keys() - {"BF16"}))
def test_there_and_back(datatype):
    x = np.array([[0, 1], [1, 0]]).astype(DTYPES[datatype])
    assert (decode_array(datatype, (2, 2), encode_array(cast(x, datatype))) == x).all()


@given(st.lists(st.binary(max_size=20)))
def test_elements_there_and_back(elements):
    assert split_elements(join_elements(elements)) == elements
    assert decode_array("BYTES", (len(elements),), join_elements(elements)).tolist() == elements


@given(st.lists(st.binary(max_size=5), min_size=1), st.integers(1, 4))
def test_elements_that_are_cut_short(elements, missing):
    raw = join_elements([*elements, b"four"])[:-missing]
    with pytest.raises(WireError, match="cut short"):
        split_elements(raw)


@given(st.lists(st.binary(max_size=5), max_size=4))
def test_elements_of_another_number(elements):
    raw = join_elements(elements)
    assert split_elements(raw, len(elements)) == elements
    with pytest.raises(WireError, match=f"{len(elements)} elements, but the shape says"):
        split_elements(raw, len(elements) + 1)
    if elements:
        with pytest.raises(WireError, match=f"more elements than the shape's {len(elements) - 1}"):
            split_elements(raw, len(elements) - 1)


def test_elements_are_not_copied():
    raw = bytearray(join_elements([b"ab"]))
    (element,) = split_elements(raw)
    raw[-1:] = b"c"
    assert element == b"ac"


def test_arrays_of_bytes_objects_are_bytes():
    x = np.array([[b"a", b""], [b"bcd", b"e"]], object)
    assert datatype_of(x.dtype) == "BYTES"
    assert encode_array(x) == join_elements([b"a", b"", b"bcd", b"e"])
    assert decode_array("BYTES", (2, 2), encode_array(x)).tolist() == x.tolist()


@pytest.mark.parametrize(
    ("datatype", "shape", "raw"),
    [
        ("FP33", [1], bytes(4)),
        ("FP32", [2], bytes(4)),
        ("FP32", [1], bytes(5)),
        ("BYTES", [2], join_elements([b"a"])),
        ("BYTES", [1], b"\x09\0\0\0abcd"),
    ],
)
def test_raw_elements_that_do_not_fit(datatype, shape, raw):
    with pytest.raises(WireError):
        decode_array(datatype, shape, raw)


def test_every_dtype_has_one_datatype():
    for name in DTYPES.keys() - {"BF16"}:
        assert datatype_of(DTYPES[name]) == name
    for dtype in (np.complex64, "U3", "datetime64[s]"):
        with pytest.raises(KeyError):
            datatype_of(dtype)


@pytest.mark.parametrize("datatype", sorted(DTYPES.keys() - {"BF16"}))
def test_json_there_and_back(datatype):
    x = np.array([[0, 1, 0.1], [1, 0, 3]]).astype(DTYPES[datatype])
    data = json.loads(encode_json(x))
    assert len(data) == 6
    for values in (data, x.tolist()):
        again = decode_json(datatype, (2, 3), values)
        assert again.dtype == x.dtype
        assert (again == x).all()


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_json_holds_the_shortest_text_of_a_number(values):
    x = np.array(values, np.float32)
    assert (np.array(json.loads(encode_json(x)), np.float32) == x).all()
    assert encode_json(np.array([0.1], np.float32)) == "[0.1]"


def test_json_of_texts():
    x = np.array(["\u00e9".encode(), b"a"], object)
    assert json.loads(encode_json(x)) == ["\u00e9", "a"]
    assert decode_json("BYTES", (2, 1), [["\u00e9"], ["a"]]).tolist() == x.reshape(2, 1).tolist()


@pytest.mark.parametrize(
    ("x", "what"),
    [
        (np.array([np.nan]), "NaN or infinity"),
        (np.array([np.inf], np.float32), "NaN or infinity"),
        (np.array([b"\xff"], object), "no UTF-8"),
    ],
)
def test_what_json_can_not_express(x, what):
    with pytest.raises(WireError, match=what):
        encode_json(x)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("FP33", [1]),
        ("FP32", [1, 2]),
        ("FP32", ["a"]),
        ("FP32", [[1], [1, 2]]),
        ("INT8", [1000]),
        ("BYTES", [1]),
        ("BYTES", ["a", "b"]),
    ],
)
def test_json_that_does_not_fit(datatype, data):
    with pytest.raises(WireError):
        decode_json(datatype, [1], data)


def test_null_is_not_a_number():
    assert np.isnan(decode_json("FP32", [1], [None])).all()
