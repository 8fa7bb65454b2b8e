"""curl, as people type it, and what a client library would hide: headers and statuses."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from reference import MEMBERS, agree

ROWS = slice(0, 7)

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")


class Reply:
    """Status, headers (lower case) and body of curl's answer."""

    def __init__(self, head: bytes, body: bytes) -> None:
        # After "100 Continue" another head follows; the last one counts.
        status, *lines = head.decode().rstrip().split("\r\n\r\n")[-1].split("\r\n")
        self.status = int(status.split()[1])
        pairs = (line.split(":", 1) for line in lines)
        self.headers = {name.lower(): value.strip() for name, value in pairs}
        self.body = body

    @property
    def json(self):
        return json.loads(self.body)


@pytest.fixture
def curl(server, tmp_path):
    def ask(path: str, *arguments: str, data: bytes | None = None) -> Reply:
        head = tmp_path / "head"
        sent = [] if data is None else ["--data-binary", "@-"]
        command = ["curl", "-q", "-sS", "--max-time", "30", "-D", str(head), *sent, *arguments]
        done = subprocess.run(
            [*command, server.url + path], input=data, capture_output=True, check=True
        )
        return Reply(head.read_bytes(), done.stdout)

    return ask


def as_json(x: np.ndarray, **more) -> bytes:
    tensor = {"name": "x", "shape": x.shape, "datatype": "FP32", "data": x.ravel().tolist()}
    return json.dumps({"inputs": [tensor], **more}).encode()


def values(reply: Reply) -> np.ndarray:
    assert reply.status == 200, reply.body
    (output,) = reply.json["outputs"]
    return np.array(output["data"]).reshape(output["shape"])


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_server(curl, path):
    assert curl(path).json["name"] == "ensembled"


def test_health(curl):
    assert curl("/v2/health/live").json == {"live": True}
    assert curl("/v2/health/ready").json == {"ready": True}
    assert curl("/v2/models/digits/ready").json["ready"] is True


def test_models(curl):
    assert curl("/v2/models/digits").json["outputs"][0]["name"] == "output"
    assert curl("/v2/models/digits/config").json["ensemble"]["members"] == list(MEMBERS)
    index = curl("/v2/repository/index", "-X", "POST").json
    assert {model["name"] for model in index} == {"digits", *MEMBERS}


def test_infer(curl, digits):
    reply = curl("/v2/models/digits/infer", data=as_json(digits.x[ROWS]))
    agree(values(reply), digits.mean(ROWS))
    assert reply.headers["content-type"] == "application/json"


def test_version_in_the_path(curl, digits):
    reply = curl("/v2/models/digits/versions/1/infer", data=as_json(digits.x[ROWS]))
    agree(values(reply), digits.mean(ROWS))


@pytest.mark.parametrize("flag", ["--http1.0", "--http1.1"])
def test_versions_of_http(curl, digits, flag):
    agree(values(curl("/v2/models/digits/infer", flag, data=as_json(digits.x))), digits.mean(...))


def test_expect_continue(curl, digits):
    reply = curl(
        "/v2/models/digits/infer", "-H", "Expect: 100-continue", data=as_json(digits.x[ROWS])
    )
    agree(values(reply), digits.mean(ROWS))


def test_chunked(curl, digits):
    reply = curl(
        "/v2/models/digits/infer", "-H", "Transfer-Encoding: chunked", data=as_json(digits.x[ROWS])
    )
    agree(values(reply), digits.mean(ROWS))


def test_binary_tensor(curl, digits):
    x = digits.x[ROWS]
    tensor = {"name": "x", "shape": x.shape, "datatype": "FP32"}
    tensor["parameters"] = {"binary_data_size": x.nbytes}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    length = f"Inference-Header-Content-Length: {len(head)}"
    reply = curl("/v2/models/digits/infer", "-H", length, data=head + x.tobytes())
    assert reply.status == 200
    head_bytes = int(reply.headers["inference-header-content-length"])
    (output,) = json.loads(reply.body[:head_bytes])["outputs"]
    raw = reply.body[head_bytes:]
    assert output["parameters"]["binary_data_size"] == len(raw)
    agree(np.frombuffer(raw, "<f4").reshape(output["shape"]), digits.mean(ROWS))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_answer(curl, digits, encoding):
    body = as_json(digits.x)
    plain = curl("/v2/models/digits/infer", data=body)
    assert "content-encoding" not in plain.headers
    accept = f"Accept-Encoding: {encoding}"
    packed = curl("/v2/models/digits/infer", "--compressed", "-H", accept, data=body)
    assert packed.headers["content-encoding"] == encoding
    assert int(packed.headers["content-length"]) < len(plain.body)
    agree(values(packed), digits.mean(...))


@pytest.mark.parametrize(
    ("arguments", "path", "status"),
    [
        ((), "/v2/models/nobody", 404),
        ((), "/nowhere", 404),
        (("-X", "DELETE"), "/v2/models/digits", 405),
        ((), "/v2/models/digits/infer", 405),
        (("-d", "{"), "/v2/models/digits/infer", 400),
        (("-d", "{}"), "/v2/models/digits/infer", 400),
        (("-d", "{}"), "/v2/repository/models/digits/load", 403),
        (("-d", "{}"), "/v2/repository/models/digits/unload", 403),
    ],
)
def test_errors_have_the_protocols_shape(curl, arguments, path, status):
    reply = curl(path, *arguments)
    assert reply.status == status
    assert set(reply.json) == {"error"}
    assert reply.headers["content-type"] == "application/json"
