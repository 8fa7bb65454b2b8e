"""What is sent over HTTP, and what answers mean."""

import json

import numpy as np
import pytest
from ensembled_client import RequestRejected, ServerFailure
from ensembled_client.inputs import tensors_for
from ensembled_client.requests import InferCall
from ensembled_client.rest import (
    RequestBody,
    RestEncoder,
    RestResponse,
    decode_document,
    decode_infer,
)
from ensembled_client.transport import Address, ConnectionOptions, Resource

PIXELS = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2, 3]}]}
LENGTH = b"Inference-Header-Content-Length"


@pytest.fixture
def rest():
    return RestEncoder(Address.of("http://host:8000/prefix/"), ConnectionOptions())


def test_a_request_on_the_wire(rest):
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    outputs = {"output": 3, "variance": 0}
    call = InferCall("a/b c", tensors_for(PIXELS, x), outputs, {"timeout": 250_000})
    request = rest.infer(call)
    assert (request.method, request.target) == (b"POST", b"/prefix/v2/models/a%2Fb%20c/infer")
    headers = dict(request.headers)
    body = b"".join(request.body)
    length = int(headers[LENGTH])
    assert headers[b"Host"] == b"host:8000"
    assert int(headers[b"Content-Length"]) == len(body)
    assert json.loads(body[:length]) == {
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [1, 2, 3],
                "parameters": {"binary_data_size": 24},
            }
        ],
        "outputs": [
            {"name": "output", "parameters": {"binary_data": True, "classification": 3}},
            {"name": "variance", "parameters": {"binary_data": True}},
        ],
        "parameters": {"timeout": 250_000},
    }
    assert body[length:] == x.tobytes()
    assert len(body) - 24 <= rest.overhead_bytes(call) <= len(body)


def test_requests_of_one_kind_share_their_header(rest):
    def infer(x):
        return rest.infer(InferCall("m", tensors_for(PIXELS, x), {"output": 0}, {}))

    first, second = (infer(np.full((1, 2, 3), i)) for i in (0, 1))
    assert first.headers == second.headers
    assert b"".join(first.body)[:-24] == b"".join(second.body)[:-24]
    for rows in range(1, 400):  # and the memory of them is bounded
        infer(np.zeros((rows, 2, 3)))
    assert len(rest._heads) <= 256


@pytest.mark.parametrize("sizes", [[1, 2], [3 << 20, 5], [0, 0], [1 << 20, 1 << 20]])
def test_a_body_in_chunks(sizes):
    parts = [bytes([i]) * size for i, size in enumerate(sizes)]
    body = RequestBody(parts)
    assert body.size_bytes == sum(sizes)
    assert b"".join(body) == b"".join(parts)
    assert all(len(chunk) <= 1 << 20 for chunk in body)


def answer(document, raw=None):
    text = json.dumps(document).encode()
    headers = [] if raw is None else [(LENGTH, str(len(text)).encode())]
    return decode_infer(RestResponse(200, headers, text + (raw or b"")))


def test_an_answer_may_be_json_or_raw():
    described = {"name": "output", "datatype": "FP32", "shape": [1, 2]}
    texts = {"name": "t", "datatype": "BYTES", "shape": [1, 2], "data": [["a", "b"]]}
    outputs = answer({"outputs": [{**described, "data": [1, 2.5]}, texts]}).outputs
    assert outputs["output"].tolist() == [[1, 2.5]]
    assert outputs["t"].tolist() == [[b"a", b"b"]]
    described["parameters"] = {"binary_data_size": 8}
    document = {"outputs": [described], "parameters": {"degraded": True}}
    given = answer(document, np.array([1, 2.5], "<f4").tobytes())
    assert given.outputs["output"].tolist() == [[1, 2.5]]
    assert given.parameters == {"degraded": True}


OUTPUT = {"name": "output", "datatype": "FP32", "shape": [2]}
RAW = {"name": "output", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 8}}


@pytest.mark.parametrize(
    ("document", "raw"),
    [
        ({}, b""),
        ([], b""),
        ({"outputs": [{**OUTPUT, "datatype": "FP33", "data": [1, 2]}]}, b""),
        ({"outputs": [{**OUTPUT, "data": [1]}]}, b""),
        ({"outputs": [], "parameters": 1}, b""),
        ({"outputs": [RAW]}, b"\x09\0\0\0abcd"),
        ({"outputs": [RAW]}, b"\x09"),
    ],
)
def test_nonsense_is_a_failure_of_the_server(document, raw):
    with pytest.raises(ServerFailure, match="can't be understood"):
        answer(document, raw)


def test_a_length_that_is_none():
    with pytest.raises(ServerFailure, match="b'-1'"):
        decode_infer(RestResponse(200, [(LENGTH, b"-1")], b"{}"))


@pytest.mark.parametrize(
    ("status", "body", "error", "text"),
    [
        (502, b"<html>", ServerFailure, "502 Bad Gateway"),
        (599, b"<html>", ServerFailure, "599 from the server"),
        (302, b"", RequestRejected, "302 Found: the server is somewhere else"),
        (200, b"<html>", ServerFailure, "not a JSON object"),
        (200, b"[]", ServerFailure, "not a JSON object"),
    ],
)
def test_answers_of_somebody_else(status, body, error, text):
    response = RestResponse(status, [(b"retry-after", b"tomorrow")], body)
    with pytest.raises(error, match=text) as caught:
        decode_document(Resource.SERVER_METADATA, response)
    assert caught.value.retry_after is None


def test_the_index_is_a_list(rest):
    request = rest.look_up(Resource.REPOSITORY_INDEX)
    assert (request.method, request.target) == (b"POST", b"/prefix/v2/repository/index")
    assert decode_document(Resource.REPOSITORY_INDEX, RestResponse(200, [], b"[]")) == []
    with pytest.raises(ServerFailure, match="not a JSON array"):
        decode_document(Resource.REPOSITORY_INDEX, RestResponse(200, [], b"{}"))
