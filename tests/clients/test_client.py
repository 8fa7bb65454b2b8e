"""The clients against a stub that records requests and answers what it is told."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import ensembled_client
import numpy as np
import pytest
from ensembled_client import (
    AsyncEnsembleClient,
    DeadlineExceeded,
    EnsembleClient,
    EnsembledClientError,
    Overloaded,
    RequestRejected,
    ServerFailure,
    Unavailable,
    UnknownModel,
)

METADATA = {
    "name": "duo",
    "versions": ["1"],
    "platform": "ensembled",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1, 2]}],
}
LENGTH = "Inference-Header-Content-Length"


class Stub(ThreadingHTTPServer):
    """Answers each request with the next of `answers`: (status, body, headers)."""

    daemon_threads = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = []
        self.requests = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def will_answer(self, status, document, raw=None, **headers):
        body = json.dumps(document).encode()
        if raw is not None:
            headers[LENGTH] = str(len(body))
            body += raw
        self.answers.append((status, body, headers))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.requests.append((self.command, self.path, dict(self.headers), body))
        status, answer, headers = self.server.answers.pop(0)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET

    def log_message(self, *arguments):
        pass


@pytest.fixture
def stub():
    with Stub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Blocking:
    """The asynchronous client, called like the other one."""

    def __init__(self, url):
        self._runner = asyncio.Runner()
        self._client = AsyncEnsembleClient(url)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._runner.run(self._client.aclose())
        self._runner.close()

    def __getattr__(self, name):
        method = getattr(self._client, name)
        return lambda *arguments, **options: self._runner.run(method(*arguments, **options))


@pytest.fixture(params=[EnsembleClient, Blocking], ids=["sync", "async"])
def client(request, stub):
    with request.param(stub.url) as client:
        yield client


def answer(stub, values, **parameters):
    values = np.asarray(values, "<f4")
    output = {
        "name": "output",
        "datatype": "FP32",
        "shape": list(values.shape),
        "parameters": {"binary_data_size": values.nbytes},
    }
    document = {"model_name": "duo", "parameters": parameters, "outputs": [output]}
    stub.will_answer(200, document, values.tobytes())


def test_the_export_list_is_true():
    assert sorted(ensembled_client.__all__) == ensembled_client.__all__
    assert all(hasattr(ensembled_client, name) for name in ensembled_client.__all__)


def test_predict(stub, client):
    stub.will_answer(200, METADATA)
    answer(stub, [[0.25, 0.75]], members="a,b", degraded=True)
    prediction = client.predict("duo", [[1, 2]], timeout=1.5)
    assert prediction.values.tolist() == [[0.25, 0.75]]
    assert np.asarray(prediction).shape == (1, 2)
    assert (prediction.members, prediction.degraded) == (("a", "b"), True)
    assert prediction.timing > 0
    (method, path, _, _), (_, infer_path, headers, body) = stub.requests
    assert (method, path, infer_path) == ("GET", "/v2/models/duo", "/v2/models/duo/infer")
    length = int(headers[LENGTH])
    assert json.loads(body[:length])["parameters"] == {"timeout": 1_500_000}
    assert body[length:] == np.array([1, 2], "<f4").tobytes()


def test_metadata_is_asked_for_once_until_a_request_is_rejected(stub, client):
    stub.will_answer(200, METADATA)
    for _ in range(2):
        answer(stub, [[0, 1]])
        client.predict("duo", [[1, 2]])
    assert len(stub.requests) == 3
    with pytest.raises(RequestRejected, match=r"not \[1, 3\]"):
        client.predict("duo", [[1, 2, 3]])
    assert len(stub.requests) == 3
    stub.will_answer(200, METADATA)
    answer(stub, [[0, 1]])
    client.predict("duo", [[1, 2]])
    assert len(stub.requests) == 5


def test_names_are_quoted(stub, client):
    stub.will_answer(404, {"error": "no"})
    with pytest.raises(UnknownModel):
        client.metadata("a/b c")
    assert stub.requests[0][1] == "/v2/models/a%2Fb%20c"


def test_classify(stub, client):
    stub.will_answer(200, METADATA)
    texts = [b"0.75:1:tabby: a cat", b"0.25:0"]
    raw = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    output = {"name": "output", "datatype": "BYTES", "shape": [1, 2]}
    output["parameters"] = {"binary_data_size": len(raw)}
    stub.will_answer(200, {"outputs": [output]}, raw)
    assert client.classify("duo", [[1, 2]], top=2) == [[("tabby: a cat", 0.75), ("0", 0.25)]]
    _, _, headers, body = stub.requests[1]
    header = json.loads(body[: int(headers[LENGTH])])
    assert header["outputs"][0]["parameters"]["classification"] == 2
    with pytest.raises(RequestRejected, match="top is 1 or more"):
        client.classify("duo", [[1, 2]], top=0)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, RequestRejected),
        (413, RequestRejected),
        (404, UnknownModel),
        (429, Overloaded),
        (500, ServerFailure),
        (502, ServerFailure),
        (503, Unavailable),
        (504, DeadlineExceeded),
    ],
)
def test_errors_carry_the_servers_text(stub, client, status, error):
    stub.will_answer(200, METADATA)
    stub.will_answer(status, {"error": "in so many words"}, Retry_After="2")
    with pytest.raises(EnsembledClientError, match="^in so many words$") as caught:
        client.predict("duo", [[1, 2]])
    assert type(caught.value) is error
    assert caught.value.status == status
    if error is Overloaded:
        assert caught.value.retry_after == 2


def test_an_error_of_somebody_else(stub, client):
    stub.answers.append((502, b"<html>", {"Retry-After": "tomorrow"}))
    with pytest.raises(ServerFailure, match="502 Bad Gateway"):
        client.metadata("duo")


def test_answers_that_are_none(stub, client):
    stub.answers.append((200, b"<html>", {}))
    with pytest.raises(ServerFailure, match="not a JSON object"):
        client.metadata("duo")
    stub.will_answer(200, METADATA)
    stub.answers.append((200, b"<html>", {}))
    with pytest.raises(ServerFailure, match="can't be understood"):
        client.predict("duo", [[1, 2]])


def test_wait_until_ready(stub, client):
    stub.will_answer(503, {"ready": False})
    stub.will_answer(200, {"ready": True})
    client.wait_until_ready(30)
    assert len(stub.requests) == 2
    stub.will_answer(503, {"ready": False})
    with pytest.raises(Unavailable, match="not ready after 0 s"):
        client.wait_until_ready(0)


@pytest.mark.parametrize("make", [EnsembleClient, Blocking])
def test_nobody_is_there(make):
    with Stub() as gone:
        url = gone.url
    with make(url) as client:
        assert not client.is_ready()
        with pytest.raises(Unavailable, match="can't be reached"):
            client.predict("duo", [[1, 2]])


@pytest.mark.parametrize("make", [EnsembleClient, AsyncEnsembleClient])
@pytest.mark.parametrize(
    ("url", "text"),
    [("grpc://host:8001", "gRPC is not in this version"), ("host:8000", "not the URL of a server")],
)
def test_urls_it_can_not_speak_to(make, url, text):
    with pytest.raises(EnsembledClientError, match=text):
        make(url)
