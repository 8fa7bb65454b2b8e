import json
import subprocess
import sys

import numpy as np
import pytest
from ensembled_client.wire import (
    HEADER_LENGTH,
    RawTensor,
    WireError,
    binary_request,
    decode_response,
    json_request,
    request_header,
)

X = np.arange(6, dtype=np.float32).reshape(2, 3)
TEXTS = np.array([b"ab", b""], object)


def test_a_binary_request():
    body, headers = binary_request({"x": X, "texts": TEXTS}, {"timeout": 5})
    assert headers["Content-Type"] == "application/octet-stream"
    length = int(headers[HEADER_LENGTH])
    assert json.loads(body[:length]) == {
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [2, 3],
                "parameters": {"binary_data_size": 24},
            },
            {
                "name": "texts",
                "datatype": "BYTES",
                "shape": [2],
                "parameters": {"binary_data_size": 10},
            },
        ],
        "parameters": {"timeout": 5, "binary_data_output": True},
    }
    assert body[length:] == X.tobytes() + b"\x02\0\0\0ab\0\0\0\0"


def test_a_json_request():
    assert json.loads(json_request({"x": X, "texts": TEXTS}, {"members": "a"})) == {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": [0, 1, 2, 3, 4, 5]},
            {"name": "texts", "datatype": "BYTES", "shape": [2], "data": ["ab", ""]},
        ],
        "parameters": {"members": "a"},
    }
    assert "parameters" not in json.loads(json_request({"x": X}))
    with pytest.raises(WireError, match="input 'x' holds NaN"):
        json_request({"x": X * np.nan})


def test_outputs_are_asked_for_raw():
    tensor = RawTensor("x", "BF16", (1,), b"ab")
    document = json.loads(request_header([tensor], outputs={"output": 3, "variance": 0}))
    assert document == {
        "inputs": [
            {
                "name": "x",
                "datatype": "BF16",
                "shape": [1],
                "parameters": {"binary_data_size": 2},
            }
        ],
        "outputs": [
            {"name": "output", "parameters": {"binary_data": True, "classification": 3}},
            {"name": "variance", "parameters": {"binary_data": True}},
        ],
    }


def test_a_response_may_mix_json_and_raw_tensors():
    described = {"datatype": "FP32", "shape": [2, 3]}
    document = {
        "outputs": [
            {"name": "a", **described, "parameters": {"binary_data_size": 24}},
            {"name": "b", **described, "data": X.tolist()},
            {"name": "c", **described, "parameters": {"binary_data_size": 24}},
        ],
        "parameters": {"degraded": True},
    }
    header = json.dumps(document).encode()
    response = decode_response(header + X.tobytes() + (X + 1).tobytes(), len(header))
    assert response.parameters == {"degraded": True}
    assert {name: values.tolist() for name, values in response.outputs.items()} == {
        "a": X.tolist(),
        "b": X.tolist(),
        "c": (X + 1).tolist(),
    }


@pytest.mark.parametrize(
    ("body", "header_length"),
    [
        (b"", None),
        (b"[]", None),
        (b"{}", 2),
        (b'{"outputs": [1]}', None),
        (b'{"outputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}', None),
        (b'{"outputs": [], "parameters": 1}', None),
    ],
)
def test_a_body_that_is_no_response(body, header_length):
    with pytest.raises(WireError, match="no infer response"):
        decode_response(body, header_length)


@pytest.mark.parametrize("trailing", [b"x", b"x" * 24])
def test_a_body_longer_than_its_outputs(trailing):
    output = {"name": "a", "datatype": "FP32", "shape": [2, 3]}
    header = json.dumps({"outputs": [{**output, "parameters": {"binary_data_size": 24}}]}).encode()
    assert (decode_response(header + X.tobytes(), len(header)).outputs["a"] == X).all()
    with pytest.raises(WireError, match="longer than its outputs"):
        decode_response(header + X.tobytes() + trailing, len(header))
    no_raw = json.dumps({"outputs": [{**output, "data": X.tolist()}]}).encode()
    with pytest.raises(WireError, match="longer than its outputs"):
        decode_response(no_raw + trailing, len(no_raw))


def test_the_wire_alone_imports_no_http_and_no_grpc():
    code = (
        "import sys, ensembled_client.wire\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))\n"
        "print(*(name for name in sys.modules if name.startswith('ensembled_client.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    imported, ours = (set(line.split()) for line in done.stdout.splitlines())
    assert "numpy" in imported
    assert not imported & {
        "anyio",
        "google",
        "grpc",
        "h11",
        "httpcore",
        "httpx",
        "msgspec",
        "orjson",
    }
    assert all(name.startswith("ensembled_client.wire") for name in ours)
