"""Tensors in JSON: decoded in slices as at once, encoded in slices as at once."""

import json

import numpy as np
import orjson
import pytest
from ensembled_client.wire import DTYPES
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from server.errors import InvalidRequest
from server.http_api.json_tensors import _is_regular, encode_array, tensor_from_json
from server.http_api.protocol import parse_in_slices, parse_request
from server.inference.time_slicer import run_to_end


def outcome(parse):
    try:
        request = parse()
    except InvalidRequest:
        return "refused"
    tensors = [
        (tensor.name, tensor.datatype, list(tensor.shape), bits(tensor))
        for tensor in request.tensors
    ]
    return request.id, tensors, request.outputs, request.parameters


def bits(tensor):
    if tensor.array is None:
        return [bytes(element) for element in tensor.elements]
    return tensor.array.dtype.str, tensor.array.shape, tensor.array.tobytes()


def compare(body, *, length=None, slice_bytes=24):
    at_once = outcome(lambda: parse_request(body, length))
    in_slices = outcome(lambda: run_to_end(parse_in_slices(body, length, slice_bytes=slice_bytes)))
    assert in_slices == at_once
    return at_once


def count_slices(body, slice_bytes=24):
    return sum(1 for _ in parse_in_slices(body, None, slice_bytes=slice_bytes))


def body(data, *, shape=(2, 3), datatype="FP32", **more):
    tensor = {"name": "x", "shape": shape, "datatype": datatype, "data": data, **more}
    return json.dumps({"inputs": [tensor]}).encode()


def text(data, *, shape="[2, 3]", datatype="FP32"):
    """A body with the data as it is written."""
    start = f'{{"inputs":[{{"name":"x","shape":{shape},"datatype":"{datatype}","data":'
    return (start + data + "}]}").encode()


# -- slices ------------------------------------------------------------------------------


@pytest.mark.parametrize("slice_bytes", [17, 24, 60, 200])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT16", "UINT64", "BOOL"])
def test_arrays_are_decoded_in_slices(datatype, nested, slice_bytes):
    values = np.arange(120).reshape(4, 5, 6) % 7
    values = values / 4 - 1 if datatype.startswith("FP") else values
    values = values % 2 == 1 if datatype == "BOOL" else values
    data = values.tolist() if nested else values.ravel().tolist()
    content = body(data, shape=(4, 5, 6), datatype=datatype)
    assert count_slices(content, slice_bytes) >= 2
    _, tensors, *_ = compare(content, slice_bytes=slice_bytes)
    assert np.frombuffer(tensors[0][3][2], tensors[0][3][0]).tolist() == values.ravel().tolist()


def test_several_inputs_each_in_its_place():
    tensors = [
        {"data": [i + 0.5] * 20, "name": f"x{i}", "shape": [4, 5], "datatype": "FP64"}
        for i in range(4)
    ]
    tensors.insert(2, {"name": "small", "shape": [1], "datatype": "BOOL", "data": [True]})
    content = json.dumps({"inputs": tensors, "id": "7"}).encode()
    assert count_slices(content) > 8
    assert compare(content)[0] == "7"


def test_data_before_raw_tensors():
    tensors = [
        {"name": "x", "shape": [20], "datatype": "FP32", "data": [0.25] * 20},
        {"name": "y", "shape": [2], "datatype": "INT8", "parameters": {"binary_data_size": 2}},
    ]
    header = json.dumps({"inputs": tensors}).encode()
    for raw in (b"ab", b"a", b"abc"):
        compare(header + raw, length=len(header))
    compare(header, length=len(header) + 1)


def test_bytearrays_are_read_too():
    content = body([1.5] * 6)
    assert compare(bytearray(content)) == compare(content)


# -- what differs only by a hair ----------------------------------------------------------------

ROW = "0.5, 1, -2e1"
PLAIN = f"[[{ROW}], [{ROW}]]"


@pytest.mark.parametrize(
    "content",
    [
        text(PLAIN),
        text(f"[{ROW}, {ROW}]"),
        text(f"[[[{ROW}]], [[{ROW}]]]"),
        text(f"[[{ROW}, {ROW}]]"),
        text("[[1, 2], [3, 4], [5, 6]]"),
        text(PLAIN.replace(" ", "")),
        text(PLAIN.replace(" ", " \t\r\n ")),
        text(f" \n {PLAIN} \n "),
        text(PLAIN, datatype="INT8"),
        text(PLAIN, datatype="BYTES"),
        text(PLAIN, datatype="BF16"),
        text(PLAIN, datatype="FP33"),
        text(PLAIN, shape="[3, 2]"),
        text(PLAIN, shape="[2, 2]"),
        text(PLAIN, shape="[6, -1]"),
        text(PLAIN, shape='["6"]'),
        text(PLAIN, shape='{"data": [1, 2, 3, 4, 5, 6, 7, 8, 9]}'),
        text(f"[[{ROW}], [{ROW}, 1]]"),
        text(f"[[{ROW}], {ROW}]"),
        text(f"[[{ROW}], [[{ROW}]]]"),
        text(f"[[{ROW}], [{ROW}]"),
        text(f"[[{ROW}], [{ROW}]]]"),
        text(f"[[{ROW}], [{ROW}],]"),
        text(f"[[{ROW}], [{ROW}]],"),
        text(f"[[{ROW}], , [{ROW}]]"),
        text(f"[,[{ROW}], [{ROW}]]"),
        text(f"[[{ROW}] [{ROW}]]"),
        text(f"[[{ROW}], 1 [{ROW}]]"),
        text(f"[[{ROW}] 1, [{ROW}]]"),
        text(f"[[{ROW}]1, [{ROW}]]"),
        text(f"[[{ROW},], [{ROW}]]"),
        text("[[1, 2 3, 4], [5, 6, 7]]"),
        text("[[1, 2, 3], [4, 5, 06]]"),
        text("[[1, 2, 3], [4, 5, +6]]"),
        text("[[1, 2, 3], [4, 5, .6]]"),
        text("[[1, 2, 3], [4, 5, 6.]]"),
        text("[[1, 2, 3], [4, 5, 1e]]"),
        text("[[1, 2, 3], [4, 5, 1.5.5]]"),
        text("[[1.5, 2.5, 3.5], [4.5, 5.5, true]]"),
        text("[[1.5, 2.5, 3.5], [4.5, 5.5, null]]"),
        text("[[1.5, 2.5, 3.5], [4.5, 5.5, NaN]]"),
        text("[[1.5, 2.5, 3.5], [4.5, 5.5, Infinity]]"),
        text('[[1.5, 2.5, 3.5], [4.5, 5.5, "6"]]'),
        text("[[1.5, 2.5, 3.5], [4.5, 5.5, {}]]"),
        text("[[1.5, 2.5, 3.5], [4.5, 5.5, 1e999]]"),
        text("[[1.5, 2.5, 3.5], [4.5, 5.5, 1e39]]"),
        text("[[1.5, 2.5, 3.5], [4.5, 5.5, -0.0]]"),
        text("[[1.5, 2.5, 3.5], [4.5, 5.5, -0]]"),
        text("[[1.5, 2.5, 3.5], [4.5, 5.5, 1E+05]]"),
        text("[[1.5, 2.5, 3.5], [4.5, 5.5, 123456789012345678901234567890]]"),
        text("[[1.5, 2.5, 3.5], [4.5, 5.5, 9007199254740993]]", datatype="FP64"),
        text("[[1, 2, 3], [4, 5, 9007199254740993]]"),
        text("[1" + "0" * 400 + ", 2, 3, 4, 5, 6]"),
        text("[1" + "0" * 5000 + ", 2, 3, 4, 5, 6]"),
        text("[[true, false, true], [true, true, false]]", datatype="BOOL"),
        text("[[true, false, true], [true, true, 1]]", datatype="BOOL"),
        text("[[true, false, true], [true, true, 1]]", datatype="INT8"),
        text("[[true, false, true], [true, true, tru]]", datatype="BOOL"),
        text("[[true, false, true], [true, true, falsetrue]]", datatype="BOOL"),
        text("[[true, false, true], [true, true, true]]"),
        text("[" + f"{2**63}, " * 5 + "1]", datatype="UINT64"),
        text("[" + f"{2**63}, " * 5 + "-1]", datatype="UINT64"),
        text("[" + f"{2**63}, " * 5 + "1.5]", datatype="UINT64"),
        text("[" + f"{2**63}, " * 5 + "1]", datatype="INT64"),
        text("[" + f"{2**63}, " * 5 + "1]", datatype="FP64"),
        text("[" + "1, " * 20 + f"{2**64 - 1}]", datatype="UINT64", shape="[21]"),
        text("[" + "1, " * 20 + f"-1, {2**64 - 1}]", datatype="UINT64", shape="[22]"),
        text("[" + "1, " * 20 + f"{2**64}]", datatype="UINT64", shape="[21]"),
        text("[" + "1, " * 20 + "128]", datatype="INT8", shape="[21]"),
        text("[" + "1, " * 20 + "70000]", datatype="FP16", shape="[21]"),
        text("[[], [], [], [], [], [], [], [], [], []]", shape="[10, 0]"),
        text("[[[[]]], [[[]]], [[[]]], [[[]]], [[[]]]]", shape="[5, 1, 1, 0]"),
        text("[[], [1], [], [], [], [], [], [], [], []]", shape="[1]"),
        text("[" * 40 + "1" + "]" * 40, shape="[1]"),
        text("[" * 31 + "1, 2, 3, 4, 5, 6, 7" + "]" * 31, shape="[7]"),
        text("[" * 70 + "1, 2, 3, 4, 5, 6, 7" + "]" * 70, shape="[7]"),
        text(PLAIN) + b" tail",
        text(PLAIN)[:-1],
        text(PLAIN)[:-3],
        text(PLAIN)[:-8],
        text(PLAIN).replace(b"0.5", "0.5\u00a0".encode()),
        text(PLAIN).replace(b'"x"', b'"\xff"'),
        text(PLAIN).replace(b'"x"', b"7"),
        text(PLAIN).replace(b"data", b"d\\u0061ta"),
        text(PLAIN).replace(b'"data":', b'"data"' + b" " * 200 + b":"),
        text(PLAIN).replace(b'"data"', b'\\"data"'),
        text(PLAIN).replace(b"}]}", b'}], "outputs": [1]}'),
        text(PLAIN).replace(b"}]}", b'}], "id": }'),
        text(PLAIN).replace(b"}]}", b',"data":[1,2,3,4,5,6]}]}'),
        text(PLAIN).replace(b"}]}", b',"data":[6,5,4,3,2,1.5]}]}'),
        text(PLAIN).replace(b"}]}", b',"parameters":{"binary_data_size":4}}]}'),
        text(PLAIN).replace(b"}]}", b',"more":{"data":[6,5,4,3,2,1.5]}}]}'),
        text(PLAIN).replace(b"}]}", b',"more":{"data":[6,5,4,3,2,01.5]}}]}'),
        text(PLAIN).replace(b"}]}", b'}],"data":[6,5,4,3,2,1.5, 2.5]}'),
        text(PLAIN).replace(b"}]}", b'}],"parameters":{"timeout":{"data":[1,2,3,4,5,6,7,8,9]}}}'),
        text(PLAIN).replace(
            b"}]}", b',"parameters":{"binary_data_size":{"data":[1,2,3,4,5,6,7,8,9]}}}]}'
        ),
        text('"\\"data\\": [1, 2, 3, 4, 5, 6, 7, 8]"'),
        text('["\\"data\\": [1, 2, 3, 4, 5, 6, 7", "b"]', shape="[2]", datatype="BYTES"),
        text('["data", "data"]', shape="[2]", datatype="BYTES"),
        b'"data": [1, 2, 3, 4, 5, 6, 7, 8]',
        b'{"data": [1, 2, 3, 4, 5, 6, 7, 8]}',
        b'"data": [1, 2, 3, 4, 5, 6, 7, 8',
        b'"data"',
        b'"data":',
        b'"data":[',
    ],
)
def test_both_ways_say_the_same(content):
    for slice_bytes in (4, 8, 9, 10, 11, 12, 13, 16, 24, 1000):
        compare(content, slice_bytes=slice_bytes)
    reordered = content.replace(b'"shape":', b'"later":', 1)
    compare(reordered)


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "INT64", "UINT64"])
@pytest.mark.parametrize("huge", [2**70, -(2**70), 2**64, 2**63, -1, 2**53 + 1, 10**400])
@pytest.mark.parametrize("other", ["1", "0.5", "-1", "18446744073709551615"])
def test_a_huge_number_fares_the_same_whatever_shares_its_slice(datatype, huge, other):
    for slice_bytes in (4, 24, 60, 500):
        compare(
            text(f"[[{huge}, {other}, {other}], [{other}, {other}, {huge}]]", datatype=datatype),
            slice_bytes=slice_bytes,
        )


def test_many_objects_are_read_as_long_as_all_that_is_not_numbers_is_short():
    numbers = ", ".join(["0.25"] * 100_000)
    start = text(f"[{numbers}]", shape="[100000]")[:-1]
    many, too_many = ((start + b', "more": [%b{}]}' % (b"{}," * n)) for n in (50_000, 100_000))
    _, ((_, _, shape, _),), *_ = compare(many, slice_bytes=1 << 16)
    assert shape == [100_000]
    assert compare(too_many, slice_bytes=1 << 16) == "refused"


def test_much_that_is_not_numbers_is_refused_before_anything_is_decoded():
    content = b'{"inputs": [' + b'{"name":"","shape":[],"datatype":""},' * 300_000 + b"]}"
    with pytest.raises(InvalidRequest, match="besides arrays of numbers"):
        parse_request(content[:-3] + b"damage", None)
    shape = text("[]", shape="[" + "0," * 200_000 + '"damage"]')
    with pytest.raises(InvalidRequest, match="besides arrays of numbers"):
        parse_request(shape, None)


scalars = (
    st.integers(-300, 300)
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
)
arrays = st.lists(scalars, min_size=1, max_size=12) | st.tuples(
    st.integers(1, 3), st.integers(1, 4), scalars
).map(lambda sizes: [[sizes[2]] * sizes[1] for _ in range(sizes[0])])
junk = st.sampled_from(
    ["[", "]", ",", " ", "1", "-", ".", "e", "true", '"', "{", "}", "\\", "null"]
)


@settings(max_examples=400)
@given(
    data=arrays,
    datatype=st.sampled_from(["FP32", "FP64", "INT8", "INT64", "UINT64", "BOOL", "BYTES"]),
    shape=st.none() | st.lists(st.integers(-1, 12), max_size=3),
    compact=st.booleans(),
    damage=st.none() | st.tuples(st.integers(0, 200), st.integers(0, 3), junk),
    slice_bytes=st.integers(4, 60),
    data_first=st.booleans(),
)
def test_any_request_fares_the_same(
    *, data, datatype, shape, compact, damage, slice_bytes, data_first
):
    shape = list(np.asarray(data, object).shape) if shape is None else shape
    tensor = {"name": "x", "shape": shape, "datatype": datatype}
    tensor = {"data": data, **tensor} if data_first else {**tensor, "data": data}
    content = json.dumps({"inputs": [tensor]}, separators=(",", ":") if compact else None)
    if damage is not None:
        position, length, inserted = damage
        content = content[:position] + inserted + content[position + length :]
    compare(content.encode(), slice_bytes=slice_bytes)


# -- brackets -----------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_regular_nestings(shape):
    nesting = "".join(c for c in json.dumps(np.zeros(shape).tolist()) if c in "[],").encode()
    size = int(np.prod(shape))
    assert _is_regular(nesting, size)
    assert not _is_regular(nesting, size + 1)


@given(st.text("[],", max_size=12), st.integers(1, 6))
def test_any_nesting_is_regular_or_not(nesting, elements):
    whole = nesting.replace("[,", "[0,").replace(",]", ",0]").replace("[]", "[0]")
    while ",," in whole:
        whole = whole.replace(",,", ",0,")
    try:
        array = np.asarray(json.loads(whole))
        expected = array.ndim > 0 and array.size == elements
    except ValueError:
        expected = nesting == "" and elements == 1  # a number by itself
    assert _is_regular(nesting.encode(), elements) == expected


# -- single tensors -----------------------------------------------------------------------------

shapes = numpy_strategies.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)
finite = st.sampled_from(sorted(set(DTYPES) - {"BF16"})).flatmap(
    lambda name: numpy_strategies.arrays(
        DTYPES[name],
        shapes,
        elements=numpy_strategies.from_dtype(DTYPES[name], allow_nan=False, allow_infinity=False),
    ).map(lambda array: (name, array))
)
any_shape = st.lists(st.integers(-2, 4) | st.integers(-(2**70), 2**70), max_size=4)
any_datatype = st.sampled_from([*DTYPES, "BYTES", "BF16", "", "FP33"])
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)


def decode(name, datatype, shape, values):
    text = json.dumps(values).encode()
    return run_to_end(tensor_from_json(name, datatype, shape, memoryview(text)))


def same(tensor, name, array):
    assert (tensor.datatype, tuple(tensor.shape)) == (name, array.shape)
    assert tensor.array.dtype == DTYPES[name]
    assert tensor.array.shape == array.shape
    np.testing.assert_array_equal(tensor.array, array)


@given(finite)
def test_nested_and_flat_lists_come_back_as_they_were(given):
    name, array = given
    same(decode("x", name, list(array.shape), array.ravel().tolist()), name, array)
    same(decode("x", name, list(array.shape), array.tolist()), name, array)


@given(st.lists(st.text(max_size=8), max_size=8))
def test_bytes_in_json_are_texts_in_utf_8(texts):
    tensor = decode("x", "BYTES", [len(texts)], texts)
    assert list(tensor.elements) == [text.encode() for text in texts]


def test_whole_numbers_may_stand_for_floats_and_keep_all_their_bits():
    same(
        decode("x", "FP32", [3], [1, 2.5, -3]),
        "FP32",
        np.array([1, 2.5, -3], np.float32),
    )
    huge = [2**70, -(2**63) - 1, 2**53 + 1, 16777217]
    same(decode("x", "FP64", [4], huge), "FP64", np.array(huge, np.float64))
    largest = [1, 2**63, 2**64 - 1]
    same(decode("x", "UINT64", [3], largest), "UINT64", np.array(largest, np.uint64))
    smallest = [-(2**63), 2**63 - 1]
    same(decode("x", "INT64", [2], smallest), "INT64", np.array(smallest))


@pytest.mark.parametrize(
    ("datatype", "shape", "values"),
    [
        ("FP32", [2], [1.0]),
        ("FP32", [2], [1.0, 2.0, 3.0]),
        ("FP32", [-1], [1.0]),
        ("FP32", [2**63, 0], []),
        ("FP32", [1] * 100, [1.0]),
        ("FP32", [2], [[1.0], [2.0, 3.0]]),
        ("FP32", [2], [1.0, None]),
        ("FP32", [2], [1.0, "a"]),
        ("FP32", [2], ["1", "2"]),
        ("FP32", [1], {"a": 1}),
        ("FP32", [1], None),
        ("FP32", [1], [True]),
        ("FP32", [1], [2**128]),
        ("FP16", [1], [2**16]),
        ("FP64", [1], [2**1024]),
        ("BOOL", [2], [0, 1]),
        ("BOOL", [1], ["true"]),
        ("INT8", [1], [128]),
        ("INT8", [1], [1.5]),
        ("UINT8", [1], [-1]),
        ("UINT8", [1], [256]),
        ("UINT64", [1], [2**64]),
        ("INT64", [1], [2**63]),
        ("INT32", [2], [1, -(2**40)]),
        ("BF16", [1], [1.0]),
        ("BYTES", [1], [1]),
        ("BYTES", [2], ["a"]),
        ("BYTES", [1], None),
        ("BYTES", [-1], ["a"]),
        ("NONE", [1], [1]),
    ],
)
def test_values_that_do_not_fit_are_refused(datatype, shape, values):
    with pytest.raises(InvalidRequest, match="'x'") as refusal:
        decode("x", datatype, shape, values)
    assert "\n" not in str(refusal.value)


def test_values_nested_too_deeply_are_refused():
    values: list = [1.0]
    for _ in range(500):
        values = [values]
    with pytest.raises(InvalidRequest):
        decode("x", "FP32", [1], values)


@given(any_datatype, any_shape, json_values)
def test_any_values_make_a_tensor_or_an_invalid_request(datatype, shape, values):
    try:
        tensor = decode("x", datatype, shape, values)
    except InvalidRequest:
        return
    if tensor.array is not None:
        assert (list(tensor.array.shape), tensor.array.dtype) == (shape, DTYPES[datatype])


def test_bf16_is_binary_only():
    with pytest.raises(InvalidRequest, match="BF16 is sent as binary data"):
        decode("x", "BF16", [1], [1.0])


@pytest.mark.parametrize("datatype", sorted(set(DTYPES) - {"BOOL", "BF16"}))
@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize(("rows", "at"), [(1, 0), (3, 1), (20_000, 0), (20_000, 19_999)])
def test_truth_values_among_numbers_are_refused(datatype, is_nested, rows, at):
    values: list = [1] * rows
    values[at] = True
    with pytest.raises(InvalidRequest, match="does not consist of"):
        decode("x", datatype, [rows, 1], [[value] for value in values] if is_nested else values)


# -- answers ------------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.floats(width=32) | st.just(0.1), max_size=20), max_size=4),
    st.integers(1, 7),
    st.sampled_from([np.float32, np.float64, np.int64, np.bool_]),
)
def test_answers_written_in_slices_are_the_same_bytes(outputs, slice_elements, dtype):
    with np.errstate(invalid="ignore"):
        arrays = [np.array(values, np.float64).astype(dtype) for values in outputs]
    document = {
        "id": '"data"',
        "outputs": [{"name": "a", "data": array, "more": 1} for array in arrays]
        + [{"name": "text", "data": ["a"]}, {"name": "raw"}],
    }
    at_once = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    for output in document["outputs"][: len(arrays)]:
        output["data"] = run_to_end(encode_array(output["data"], slice_elements=slice_elements))
    assert orjson.dumps(document) == at_once
