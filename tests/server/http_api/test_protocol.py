import asyncio
import json
import tracemalloc

import numpy as np
import pytest
from arenas import ensemble
from ensembled_client.wire import CLASS_SCORES, join_elements
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from server.engine.request import Answer
from server.engine.spec import ServedModel
from server.errors import InvalidRequest
from server.http_api.protocol import encode_answer, parse_in_slices, parse_request
from server.inference.requests import InferRequest, RequestedOutput
from server.inference.spec import ModelSpec
from server.inference.time_slicer import TimeSlicer, run_to_end
from workers.runtime.spec import TensorSpec


def request(**changes):
    tensor = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}
    return {"inputs": [tensor], **changes}


def tensor(**changes):
    return request(inputs=[{**request()["inputs"][0], **changes}])


def parse(document):
    return parse_request(json.dumps(document).encode(), None)


def parse_binary(document, raw):
    header = json.dumps(document).encode()
    return parse_request(header + raw, len(header))


def raw_tensor(name, size, shape=(2, 2), datatype="FP32"):
    parameters = {"binary_data_size": size}
    return {"name": name, "shape": list(shape), "datatype": datatype, "parameters": parameters}


# -- requests ----------------------------------------------------------------------------------


def test_a_json_request():
    parsed = parse(
        request(
            id="17",
            parameters={"timeout": 2_500_000, "priority": 1, "sequence_id": 3},
            outputs=[{"name": "output", "parameters": {"classification": 3}}],
            unknown="ignored",
        )
    )
    assert (parsed.id, parsed.parameters.timeout_s) == ("17", 2.5)
    assert parsed.outputs == (RequestedOutput(binary=False, classes=3),)
    np.testing.assert_array_equal(parsed.tensors[0].array, [[1, 2], [3, 4]])


def test_a_binary_request_keeps_the_order_of_its_tensors():
    first, second = np.arange(4, dtype=np.float32), np.arange(3, dtype=np.int64)
    texts = join_elements([b"ab", b""])
    document = {
        "inputs": [
            raw_tensor("a", 16),
            {"name": "j", "shape": [1], "datatype": "BOOL", "data": [True]},
            raw_tensor("b", 24, [3], "INT64"),
            raw_tensor("c", len(texts), [2], "BYTES"),
        ],
        "parameters": {"binary_data_output": True},
    }
    parsed = parse_binary(document, first.tobytes() + second.tobytes() + texts)
    a, j, b, c = parsed.tensors
    np.testing.assert_array_equal(a.array, first.reshape(2, 2))
    np.testing.assert_array_equal(j.array, [True])
    np.testing.assert_array_equal(b.array, second)
    assert [bytes(element) for element in c.elements] == [b"ab", b""]
    assert parsed.outputs == (RequestedOutput(binary=True, is_default=True),)


def test_a_header_length_of_the_whole_body_means_json_only():
    body = json.dumps(request()).encode()
    assert parse_request(body, len(body)).tensors[0].name == "x"


def test_an_output_may_overrule_the_request():
    parsed = parse(
        request(
            parameters={"binary_data_output": True},
            outputs=[{"name": "output", "parameters": {"binary_data": False}}],
        )
    )
    assert parsed.outputs == (RequestedOutput(binary=False),)


@pytest.mark.parametrize(
    "document",
    [
        request(id=None, parameters=None, outputs=None),
        request(parameters=dict.fromkeys(("timeout", "members", "quorum", "binary_data_output"))),
        request(outputs=[{"name": "output", "parameters": None}]),
        request(outputs=[{"name": "output", "parameters": {"classification": None}}]),
        request(outputs=[{"name": "output", "parameters": {"binary_data": None}}]),
        tensor(parameters=None),
        tensor(parameters={"binary_data_size": None, "shared_memory_region": None}),
    ],
)
def test_null_is_absence(document):
    absent, given = parse(request()), parse(document)
    assert (given.id, given.parameters) == ("", absent.parameters)
    (output,) = given.outputs
    assert replace(output, is_default=True) == absent.outputs[0]
    np.testing.assert_array_equal(given.tensors[0].array, absent.tensors[0].array)
    assert given.complaint == ""


def test_null_is_absence_in_the_header_of_a_binary_request():
    tensors = [{**raw_tensor("x", 16), "data": None}]
    parsed = parse_binary({"inputs": tensors, "id": None, "parameters": None}, bytes(16))
    assert (parsed.id, parsed.tensors[0].array.shape) == ("", (2, 2))


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (request(parameters={"memberz": "a"}), "there is no parameter 'memberz'"),
        (tensor(parameters={"binary": 1}), "input 'x': there is no parameter 'binary'"),
        (
            request(outputs=[{"name": "o", "parameters": {"clas": 2}}]),
            "output 'o': there is no parameter 'clas'",
        ),
    ],
)
def test_a_parameter_that_nobody_knows_is_noted(document, complaint):
    assert parse(document).complaint.startswith(complaint)


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        "text",
        None,
        request(inputs={}),
        request(inputs=[1]),
        request(inputs=[{"name": "x"}]),
        request(id=7),
        request(parameters=[]),
        request(parameters={"timeout": "soon"}),
        request(parameters={"timeout": -1}),
        request(parameters={"timeout": 1.5}),
        request(parameters={"timeout": True}),
        request(parameters={"timeout": 10**400}),
        request(parameters={"binary_data_output": "yes"}),
        request(parameters={"members": ["a"]}),
        request(parameters={"quorum": -1}),
        request(parameters={"quorum": True}),
        request(parameters={"quorum": 2**40}),
        request(outputs=[{"name": "output", "parameters": {"classification": -1}}]),
        request(outputs=[{"name": "output", "parameters": {"classification": "3"}}]),
        request(outputs=[{"name": "output", "parameters": {"classification": True}}]),
        request(outputs=[{"name": "output", "parameters": {"binary_data": 1}}]),
        request(outputs=[{"name": "output", "parameters": {"shared_memory_region": "r"}}]),
        tensor(parameters={"shared_memory_region": "r", "shared_memory_byte_size": 16}),
        tensor(name=1),
        tensor(datatype="FP33"),
        tensor(datatype=4),
        tensor(shape=None),
        tensor(shape=4),
        tensor(shape=[2, "2"]),
        tensor(shape=[2, 2.5]),
        tensor(shape=[-2, -2]),
        tensor(shape=[2, 2**63]),
        tensor(shape=[10**30]),
        tensor(shape=[2, 3]),
        tensor(shape=[1] * 200 + [4]),
        tensor(data=[1, 2, 3]),
        tensor(data=[[1, 2], [3]]),
        tensor(data=None),
        tensor(data="1234"),
        tensor(data={"a": 1}),
        tensor(data=[1, 2, 3, 10**400]),
        tensor(parameters={"binary_data_size": 16}),
    ],
)
def test_malformed_documents_are_refused(document):
    with pytest.raises(InvalidRequest) as refusal:
        parse(document)
    assert str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("size", "raw"),
    [
        (15, bytes(16)),
        (17, bytes(16)),
        (16, bytes(15)),
        (16, bytes(17)),
        (16, b""),
        (-16, bytes(16)),
        (2**64, bytes(16)),
        ("16", bytes(16)),
        (16.0, bytes(16)),
        (True, bytes(1)),
        ([], bytes(16)),
    ],
)
def test_sizes_that_lie_are_refused(size, raw):
    with pytest.raises(InvalidRequest):
        parse_binary({"inputs": [raw_tensor("x", size)]}, raw)


def test_sizes_that_sum_past_the_body_are_refused():
    with pytest.raises(InvalidRequest, match="'b'.*only 8 bytes"):
        parse_binary({"inputs": [raw_tensor("a", 16), raw_tensor("b", 16)]}, bytes(24))


def test_neither_data_nor_size_and_both_are_refused():
    with pytest.raises(InvalidRequest, match="neither"):
        parse({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32"}]})
    with pytest.raises(InvalidRequest, match="both"):
        parse_binary(tensor(parameters={"binary_data_size": 16}), bytes(16))


def test_raw_data_without_a_header_length_is_refused():
    with pytest.raises(InvalidRequest):
        parse_request(json.dumps({"inputs": [raw_tensor("x", 16)]}).encode() + bytes(16), None)
    with pytest.raises(InvalidRequest):
        parse_request(json.dumps({"inputs": [raw_tensor("x", 16)]}).encode(), None)


@pytest.mark.parametrize("length", [-1, 1, 5, 10**9, 2**64])
def test_header_lengths_that_lie_are_refused(length):
    with pytest.raises(InvalidRequest):
        parse_request(json.dumps(request()).encode()[:40], length)


def nested(depth):
    data = b"[" * depth + b"1" + b"]" * depth
    return b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":' + data + b"}]}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"{",
        b"\xff\xfe{}",
        b'{"inputs":[{"name":"\xff","shape":[1],"datatype":"FP32","data":[1]}]}',
        b'{"inputs":[{"name":"\\ud800","shape":[1],"datatype":"BYTES","data":["\\udfff"]}]}',
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}]}',
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[Infinity]}]}',
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1e999]}]}',
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1' + b"0" * 5000 + b"]}]}",
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]} tail',
        nested(70),
        nested(10_000),
        b"[" * 100_000,
        b'{"a":' * 10_000,
    ],
)
def test_bodies_that_are_no_json_request_are_refused(body):
    with pytest.raises(InvalidRequest) as refusal:
        parse_request(body, None)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500


CORPUS = [
    json.dumps(request()).encode(),
    json.dumps(tensor(shape=[2**63, 0], data=[])).encode(),
    json.dumps(request(parameters={"timeout": 10**400})).encode(),
]


def check_fuzzed(body, length):
    try:
        parsed = parse_request(body, length)
    except InvalidRequest:
        return
    assert isinstance(parsed, InferRequest)
    for given_tensor in parsed.tensors:
        if given_tensor.array is not None:
            assert given_tensor.array.shape == tuple(given_tensor.shape)


@given(st.binary(max_size=200), st.none() | st.integers(0, 250))
def test_any_bytes_are_a_request_or_refused(body, length):
    check_fuzzed(body, length)


@given(
    st.sampled_from(CORPUS),
    st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=3)), max_size=4),
    st.none() | st.integers(0, 250),
)
def test_a_damaged_request_is_a_request_or_refused(body, damages, length):
    damaged = bytearray(body)
    for position, data in damages:
        damaged[position : position + len(data)] = data
    check_fuzzed(bytes(damaged), length)


json_documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
some_tensors = st.fixed_dictionaries(
    {
        "name": st.text(max_size=3),
        "datatype": st.sampled_from(["FP32", "INT64", "UINT64", "BOOL", "BYTES", "FP16", "X"]),
        "shape": st.lists(st.integers(-1, 3) | st.integers(), max_size=3),
    },
    optional={
        "data": json_documents,
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data_size", "other"]), st.integers(-1, 40) | json_documents
        ),
    },
)
some_requests = st.fixed_dictionaries(
    {"inputs": st.lists(some_tensors, max_size=3)},
    optional={
        "id": st.text(max_size=3),
        "parameters": st.dictionaries(
            st.sampled_from(["timeout", "binary_data_output", "priority"]), json_documents
        ),
        "outputs": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["output", "other"])},
                optional={
                    "parameters": st.dictionaries(
                        st.sampled_from(["classification", "binary_data"]), json_documents
                    )
                },
            ),
            max_size=2,
        ),
    },
)


@given(some_requests, st.binary(max_size=40), st.integers(-3, 3))
@example({"inputs": [], "parameters": {"timeout": 10**400}}, b"", 0)
def test_any_document_is_a_request_or_refused(document, raw, off):
    header = json.dumps(document).encode()
    check_fuzzed(header, None)
    check_fuzzed(header + raw, max(0, len(header) + off))


# -- large requests ----------------------------------------------------------------------------


def test_the_loop_comes_round_often_while_a_big_request_is_parsed():
    tensor = {"name": "x", "shape": [1000, 100], "datatype": "FP64", "data": [1.2345678] * 100_000}
    body = json.dumps({"inputs": [tensor]}).encode()
    rounds = 0

    async def parse():
        nonlocal rounds
        parsing = asyncio.create_task(TimeSlicer().run(parse_in_slices(body, None)))
        while not parsing.done():
            await asyncio.sleep(0)
            rounds += 1
        return parsing.result()

    assert asyncio.run(parse()).tensors[0].array.sum() == pytest.approx(123_456.78)
    assert rounds > 3
    # However fast the machine is, no step parses more than a slice.
    assert sum(1 for _ in parse_in_slices(body, None)) > len(body) // (1 << 16)


MEGABYTES = 3 << 20


def document(data, datatype=b"FP32"):
    head = b'{"inputs":[{"name":"x","shape":[2,2],"datatype":"%b","data":' % datatype
    return head + data + b"}]}"


def items(item):
    return b"[" + b",".join([item] * (MEGABYTES // (len(item) + 1))) + b"]"


@pytest.mark.parametrize(
    "body",
    [
        document(items(b"null")),
        document(items(b'""'), b"BYTES"),
        document(b'["' + b"s" * MEGABYTES + b'"]', b"BYTES"),
        document(items(b"[1],[1,2]")),
        document(items(b"[]")),
        document(items(b"{}")),
        document(items(b"1")[:-1] + b",null]"),
        b'{"junk":{"data":' + items(b"1.5") + b'},"inputs":[]}',
        b'{"inputs":' + items(b'{"data":[1]}') + b"}",
        b'{"inputs":' + items(b'"data"') + b"}",
        b'{"parameters":{"a":' + items(b'""') + b'},"inputs":[]}',
        b'{"id":"' + b"x" * MEGABYTES + b'","inputs":[]}',
    ],
    ids=range(12),
)
def test_large_json_that_is_not_numbers_is_refused_before_it_takes_memory_or_time(body):
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest):
            parse_request(body, None)
        assert tracemalloc.get_traced_memory()[1] < 5 * MEGABYTES
    finally:
        tracemalloc.stop()
    slices: list[None] = []
    with pytest.raises(InvalidRequest):
        slices.extend(parse_in_slices(body, None))
    assert len(slices) < 5000


def test_many_inputs_each_of_which_is_small_are_read():
    inputs = [
        {"name": f"x{i}", "shape": [1, 4000], "datatype": "INT32", "data": [i] * 4000}
        for i in range(100)
    ]
    request = run_to_end(parse_in_slices(json.dumps({"inputs": inputs}).encode(), None))
    assert [tensor.array[0, 0] for tensor in request.tensors] == list(range(100))


# -- answers -----------------------------------------------------------------------------------

OUTPUT = TensorSpec("output", "FP32", (3,))


def model(name="both", labels=(), output=OUTPUT):
    spec = ensemble(name, (4, 2), quorum=1, output=output)
    return ModelSpec(ServedModel(0, 0, spec), (), ("four", "two"), labels)


VALUES = np.array([[0.125, 0.5, 0.375], [1, 0, 0]], np.float32)


def answer(values=VALUES, used=0b10100):
    return Answer(values.tobytes(), len(values), used, used != 0b10100)


def test_a_json_answer():
    body, length = encode_answer(model(), answer(), "7", (RequestedOutput(),))
    assert length is None
    assert json.loads(body) == {
        "model_name": "both",
        "model_version": "1",
        "id": "7",
        "parameters": {"members": "four,two", "degraded": False, "generation": 1},
        "outputs": [
            {
                "name": "output",
                "datatype": "FP32",
                "shape": [2, 3],
                "data": VALUES.ravel().tolist(),
            }
        ],
    }


def test_a_binary_answer():
    for request_id in ("", "7", ""):
        for used, members in ((0b10100, "four,two"), (0b00100, "two"), (0b10000, "four")):
            body, length = encode_answer(
                model(), answer(used=used), request_id, (RequestedOutput(binary=True),)
            )
            header = json.loads(body[:length])
            assert header.get("id", "") == request_id
            assert header["parameters"] == {
                "members": members,
                "degraded": used != 0b10100,
                "generation": 1,
            }
            (output,) = header["outputs"]
            assert output["parameters"] == {"binary_data_size": VALUES.nbytes}
            assert output["shape"] == [2, 3]
            assert body[length:] == VALUES.tobytes()


def test_a_binary_answer_speaks_of_its_own_rows_and_model():
    one = encode_answer(model(), answer(VALUES[:1]), "", (RequestedOutput(binary=True),))
    two = encode_answer(model("other"), answer(VALUES[:1]), "", (RequestedOutput(binary=True),))
    assert json.loads(one[0][: one[1]])["outputs"][0]["shape"] == [1, 3]
    assert json.loads(two[0][: two[1]])["model_name"] == "other"


def test_the_best_classes():
    body, _ = encode_answer(
        model(labels=("cat", "dog", "owl")), answer(), "", (RequestedOutput(classes=2),)
    )
    (output,) = json.loads(body)["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    assert output["data"] == [
        "0.500000:1:dog",
        "0.375000:2:owl",
        "1.000000:0:cat",
        "0.000000:1:dog",
    ]


def test_the_best_classes_without_labels_in_binary():
    body, length = encode_answer(
        model(), answer(VALUES[:1]), "", (RequestedOutput(binary=True, classes=9),)
    )
    (output,) = json.loads(body[:length])["outputs"]
    assert (output["shape"], output["parameters"]["binary_data_size"]) == (
        [1, 3],
        len(body) - length,
    )
    assert body[length:] == join_elements([b"0.500000:1", b"0.375000:2", b"0.125000:0"])


def test_a_lone_binary_output_is_the_one_that_is_wanted():
    spec = ensemble("both", (4, 2), quorum=1, output=OUTPUT, scores=CLASS_SCORES)
    both = ModelSpec(ServedModel(0, 0, spec), (), ("four", "two"))
    encode_answer(both, answer(), "", (RequestedOutput(binary=True),))  # its header is remembered
    body, length = encode_answer(both, answer(), "", (RequestedOutput("class", binary=True),))
    (output,) = json.loads(body[:length])["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("class", "INT64", [2])
    assert np.frombuffer(body[length:], np.int64).tolist() == [1, 0]
