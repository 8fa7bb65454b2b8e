"""Bodies that are big, compressed or announced first, against a running server."""

import gzip
import json
import socket
import zlib
from pathlib import Path

import numpy as np
import pytest
from serving import Client, configuration, fake, running

pytestmark = pytest.mark.process

MIB = 1 << 20
LIMIT = 110 * MIB
MAX_JSON = 16 * MIB
COLUMNS = 784
INFER = "/v2/models/all/infer"
DEADLINE_S = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    config = configuration({"a": fake(0, inputs=COLUMNS, outputs=COLUMNS)}, max_request_bytes=LIMIT)
    with running(config, tmp_path_factory.mktemp("bodies")) as server:
        yield server
        assert "Traceback" not in server.stderr


def numbers(rows):
    return np.random.default_rng(rows).random((rows, COLUMNS), np.float32)


def json_body(x, **more):
    tensor = {"name": "x", "shape": x.shape, "datatype": "FP32", "data": x.tolist()}
    return json.dumps({"inputs": [tensor], **more}).encode()


def binary_body(x, *, binary=True):
    tensor = {
        "name": "x",
        "shape": x.shape,
        "datatype": "FP32",
        "parameters": {"binary_data_size": x.nbytes},
    }
    parameters = {"binary_data_output": binary}
    header = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    return header + x.tobytes(), {"Inference-Header-Content-Length": str(len(header))}


# -- compression --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "deflate"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
@pytest.mark.parametrize("rows", [1, 200])
def test_compressed_requests(server, encoding, deflate, rows):
    x = numbers(rows)
    for body, headers in ((json_body(x), {}), binary_body(x)):
        ours = {"Content-Encoding": encoding, "Accept-Encoding": "identity"}
        answer = server.client.post(INFER, deflate(body), {**headers, **ours})
        np.testing.assert_array_equal(answer.values, x)
        assert "Content-Encoding" not in answer.headers


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("rows", [4, 200])
def test_compressed_answers(server, encoding, rows):
    x = np.round(numbers(rows), 1)  # repeats itself, so it gets smaller even in binary
    for body, headers in ((json_body(x), {}), binary_body(x)):
        answer = server.client.post(INFER, body, {**headers, "Accept-Encoding": encoding})
        np.testing.assert_array_equal(answer.values, x)
        assert answer.headers["Content-Encoding"] == encoding
        assert answer.headers["Vary"] == "accept-encoding"


def test_small_and_random_answers_stay_as_they_are(server):
    x = np.ones((1, COLUMNS), np.float32)
    document = json.loads(json_body(x))
    document["outputs"] = [{"name": "output", "parameters": {"classification": 1}}]
    content = json.dumps(document).encode()
    answer = server.client.post(INFER, content, {"Accept-Encoding": "gzip"})
    assert answer.status == 200
    assert "Content-Encoding" not in answer.headers
    body, headers = binary_body(np.random.default_rng(0).normal(size=(9, COLUMNS)).astype("<f4"))
    answer = server.client.post(INFER, body, {**headers, "Accept-Encoding": "gzip"})
    assert answer.status == 200
    assert "Content-Encoding" not in answer.headers


# -- announced first ----------------------------------------------------------------------------


def test_a_client_that_asks_first_is_told_to_go_on(server):
    body = json_body(numbers(1))
    with socket.create_connection((server.host, server.port), DEADLINE_S) as connection:
        connection.sendall(head(len(body), "Expect: 100-continue"))
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_asks_first_is_refused_at_once(server):
    with socket.create_connection((server.host, server.port), DEADLINE_S) as connection:
        connection.sendall(head(LIMIT + 1, "Expect: 100-continue"))
        received = b""
        while chunk := connection.recv(4096):  # and the connection ends
            received += chunk
    assert received.startswith(b"HTTP/1.1 413 ")


def test_an_expectation_that_is_empty_is_none(server):
    body = json_body(numbers(1))
    with socket.create_connection((server.host, server.port), DEADLINE_S) as connection:
        connection.sendall(head(len(body), "Expect:") + body)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def head(length, *headers):
    lines = [f"POST {INFER} HTTP/1.1", "Host: t", f"Content-Length: {length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


# -- big ----------------------------------------------------------------------------------------


def test_a_hundred_megabytes_within_the_limit(server):
    x = numbers(100 * MIB // (COLUMNS * 4))
    body, headers = binary_body(x)
    answer = server.client.post(INFER, body, headers)
    np.testing.assert_array_equal(answer.values, x)


def chunks(megabytes):
    chunk = bytes(MIB)
    for _ in range(megabytes):
        yield chunk


@pytest.mark.parametrize("is_announced", [True, False])
def test_what_is_beyond_the_limit_is_not_kept(server, is_announced):
    client = Client(server.url)
    client.predict("all", numbers(1))
    front_end = server.child("front-end")
    before = front_end.memory_info().rss
    size = 300 if is_announced else LIMIT // MIB + 100
    headers = {"Inference-Header-Content-Length": "100"}
    if is_announced:
        headers["Content-Length"] = str(size * MIB)
    response = client.http.post(INFER, content=chunks(size), headers=headers)
    assert response.status_code == 413
    assert str(LIMIT) in response.json()["error"]
    grown = front_end.memory_info().rss - before
    # Chunked, as much as the limit allows is kept until it is known to be exceeded.
    assert grown < (30 * MIB if is_announced else LIMIT + 60 * MIB)
    client.close()


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
@pytest.mark.parametrize("is_announced", [True, False])
def test_large_json_is_refused_naming_the_binary_extension(server, encoding, is_announced):
    body = json_body(numbers(1))[:-1] + b" " * MAX_JSON + b"}"
    body = gzip.compress(body, 1) if encoding == "gzip" else body
    content = body if is_announced else iter([body[:1000], body[1000:]])
    response = server.client.http.post(
        INFER, content=content, headers={"Content-Encoding": encoding}
    )
    assert response.status_code == 413
    for part in (str(MAX_JSON), "binary_data_size", "Inference-Header-Content-Length"):
        assert part in response.json()["error"]


def test_the_header_of_a_binary_request_is_limited_as_json(server):
    body, headers = binary_body(numbers(1))
    length = int(headers["Inference-Header-Content-Length"])
    header = body[: length - 1] + b" " * MAX_JSON + b"}"
    headers["Inference-Header-Content-Length"] = str(len(header))
    answer = server.client.post(INFER, header + body[length:], headers)
    assert answer.status == 413
    assert "binary_data_size" in answer.json["error"]


def test_what_is_announced_takes_no_memory_before_it_comes(server):
    front_end = server.child("front-end")
    before = front_end.memory_info().rss
    connections = []
    for _ in range(20):
        connection = socket.create_connection((server.host, server.port), DEADLINE_S)
        connection.sendall(head(LIMIT) + bytes(100_000))
        connections.append(connection)
    np.testing.assert_array_equal(server.predict("all", numbers(2)).values, numbers(2))
    assert front_end.memory_info().rss - before < 100 * MIB
    for connection in connections:
        connection.close()


def peak_bytes(process):
    """The most memory that a process ever had."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def test_a_bomb_takes_no_memory(server):
    front_end = server.child("front-end")
    before = front_end.memory_info().rss
    packer = zlib.compressobj(1, wbits=31)
    bomb = b"".join(packer.compress(bytes(MIB)) for _ in range(8 * LIMIT // MIB)) + packer.flush()
    headers = {"Content-Encoding": "gzip", "Inference-Header-Content-Length": "100"}
    answer = server.client.post(INFER, bomb, headers)
    assert answer.status == 413
    assert peak_bytes(front_end) - before < 3 * LIMIT


def test_small_requests_are_answered_while_a_big_one_is_parsed(server):
    # Of so many numbers that a client, too, has time for some questions while they are parsed.
    big = json_body(np.full((4000, COLUMNS), 0.5, np.float32))
    assert 0.9 * MAX_JSON < len(big) <= MAX_JSON
    small = json_body(numbers(1))
    with socket.create_connection((server.host, server.port), DEADLINE_S) as first:
        first.sendall(head(len(big)) + big[:-1])
        with socket.create_connection((server.host, server.port), DEADLINE_S) as second:
            # From here on the whole of the big one is there, and then come the small ones.
            first.sendall(big[-1:])
            answered = 0
            first.setblocking(False)
            while not has_answer(first):
                second.sendall(head(len(small)) + small)
                answer = b""
                while answer.count(b"]") < 3:
                    answer += second.recv(1 << 16)
                answered += 1
        assert answered > 3
        first.setblocking(True)
        first.settimeout(DEADLINE_S)
        assert first.recv(100).startswith(b"HTTP/1.1 200 ")


def has_answer(connection):
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_a_big_answer_in_json_has_the_same_numbers(server):
    x = numbers(1000)
    body, headers = binary_body(x, binary=False)
    np.testing.assert_array_equal(server.client.post(INFER, body, headers).values, x)
    document = json.loads(json_body(x[:50]))
    document["outputs"] = [{"name": "output", "parameters": {"classification": 2}}]
    answer = server.client.post(INFER, json.dumps(document).encode())
    assert answer.json["outputs"][0]["shape"] == [50, 2]
    best = [int(text.split(":")[1]) for text in answer.json["outputs"][0]["data"][::2]]
    assert best == x[:50].argmax(axis=1).tolist()


@pytest.mark.parametrize("case", ["too late", "a wrong shape"])
def test_refused_requests_let_go_of_their_bodies(serve, case):
    server = serve(configuration({"a": fake(1)}))
    front_end = server.child("front-end")
    x = np.zeros((1 << 20, 3 if case == "a wrong shape" else 2), np.float32)
    parameters = {"timeout": 1} if case == "too late" else {}
    times = 50

    def refuse():
        assert server.predict("a", x, **parameters).status == (504 if parameters else 400)

    refuse()
    before = front_end.memory_info().rss
    for _ in range(times):
        refuse()
    assert front_end.memory_info().rss - before < times * x.nbytes / 2
