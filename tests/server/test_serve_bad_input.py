"""Whatever a client sends: an error in the protocol's shape, and the next answer is right."""

import gzip
import json
import socket
import zlib

import numpy as np
import pytest
from serving import configuration, fake, running, wait_for

pytestmark = pytest.mark.process

LIMIT = 200_000


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    config = configuration(
        {"a": fake(0), "b": fake(6)}, max_request_bytes=LIMIT, max_waiting_requests=50
    )
    with running(config, tmp_path_factory.mktemp("bad")) as server:
        yield server


@pytest.fixture
def server(shared):
    """The server, and after every test a canary."""
    yield shared
    x = np.array([[1.5, -2.0], [0.0, 8.0]], np.float32)
    for binary in (True, False):
        np.testing.assert_array_equal(shared.predict("all", x, binary=binary).values, x + 3)


def body(**changes):
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2], **changes}
    return json.dumps({"inputs": [tensor]}).encode()


INFER = "/v2/models/all/infer"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (body(name="y"), "takes the inputs"),
        (body(datatype="FP64"), "FP32"),
        (body(datatype="BYTES", data=["a", "b"]), "FP32"),
        (body(datatype="BF16"), "binary data"),
        (body(shape=[2]), "shape"),
        (body(shape=[1, 1, 2]), "shape"),
        (body(shape=[1, 3]), "2 elements"),
        (body(shape=[2, 1]), "shape"),
        (body(shape=[0, 2], data=[]), "zero rows"),
        (body(shape=[-1, 2]), "negative"),
        (body(shape=[2**63, 2]), ""),
        (body(shape=[2**40, 2**40]), ""),
        (body(shape=[2**63, 0], data=[]), ""),
        (body(shape=[1] * 100 + [2]), ""),
        (body(shape=[]), ""),
        (body(data=[1]), "1 elements"),
        (body(data=[1, None]), "FP32"),
        (body(data=[1, "2"]), "FP32"),
        (body(data=[1, 10**400]), ""),
        (json.dumps({"inputs": []}).encode(), "takes the inputs"),
        (json.dumps({"inputs": [json.loads(body())["inputs"][0]] * 2}).encode(), "twice"),
        (b"", "JSON"),
        (b"null", "JSON"),
        (b'{"inputs": [', "JSON"),
        (body().replace(b"[1, 2]}", b"[1, NaN]}"), "JSON"),
        (body().replace(b'"x"', b'"\xff"'), "JSON"),
        (b'{"inputs": ' * 10_000, ""),
        (b"[" * 10_000 + b"]" * 10_000, ""),
        (body().replace(b"[1, 2]}", b"[" * 10_000 + b"1" + b"]" * 10_000 + b"}"), "nested"),
        (body()[:-2] + b'],"parameters":{"timeout":1' + b"0" * 400 + b"}}", ""),
        (body(data=[1.5, True]), "FP32"),
        (body(parameters={"binary": True}), "input 'x': there is no parameter 'binary'"),
        (body()[:-1] + b',"parameters":{"memberz":"a"}}', "'memberz', did you mean 'members'?"),
        (body()[:-1] + b',"parameters":{"weights":"a"}}', "no parameter 'weights', it may be"),
        (body()[:-2] + b'],"outputs":[{"name":"other"}]}', "output"),
        (body()[:-2] + b'],"outputs":[{"name":"output","parameters":{"classification":-1}}]}', ""),
    ],
)
def test_bodies_that_are_wrong(server, content, complaint):
    answer = server.client.post(INFER, content)
    assert answer.status == 400, answer.json
    assert complaint in answer.error
    assert "\n" not in answer.error


def test_what_json_has_no_number_for_is_null_in_it_and_whole_in_binary(server):
    x = np.array([[np.inf, 1.5], [-np.inf, 0.0]], np.float32)
    tensor = {"name": "x", "shape": x.shape, "datatype": "FP32"}
    tensor["parameters"] = {"binary_data_size": x.nbytes}
    header = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))}
    answer = server.client.post("/v2/models/a/infer", header + x.tobytes(), headers)
    assert answer.status == 200, answer.json
    assert answer.json["outputs"][0]["data"] == [None, 1.5, None, 0.0]
    np.testing.assert_array_equal(server.predict("a", x).values, x)


@pytest.mark.parametrize("path", [f"{INFER}?outputs=class", f"{INFER}?classification=2&k=1"])
def test_an_unknown_parameter_of_an_image_is_refused(server, path):
    answer = server.client.post(path, b"\x89PNG", {"Content-Type": "image/png"})
    assert answer.status == 400
    assert answer.error.startswith("query: there is no parameter")


def test_null_is_absence_of_whatever_is_optional(server):
    tensor = {**json.loads(body())["inputs"][0], "parameters": None}
    absent = {"inputs": [tensor], "id": None, "parameters": {"timeout": None}, "outputs": None}
    assert server.client.post(INFER, json.dumps(absent).encode()).status == 200


def test_a_refusal_quotes_no_more_than_some_of_what_was_sent(server):
    error = server.client.post(INFER, body(name="y" * 50_000)).error
    assert error.startswith("the model takes the inputs")
    assert len(error) == 4096


def test_duplicate_keys_and_unknown_keys_do_no_harm(server):
    content = body()[:-1] + b',"inputs":' + body()[len('{"inputs": ') - 1 :][:-1] + b',"more":1}'
    assert server.client.post(INFER, content).status == 200


@pytest.mark.parametrize(
    ("length", "status"),
    [
        (None, 400),
        ("0", 400),
        ("1", 400),
        ("99999", 400),
        ("-1", 400),
        ("abc", 400),
        ("", 400),
        ("1e3", 400),
        ("18446744073709551616", 400),
        ("9" * 500, 400),
    ],
)
def test_header_lengths_that_lie(server, length, status):
    tensor = {
        "name": "x",
        "shape": [1, 2],
        "datatype": "FP32",
        "parameters": {"binary_data_size": 8},
    }
    header = json.dumps({"inputs": [tensor]}).encode()
    headers = {} if length is None else {"Inference-Header-Content-Length": length}
    answer = server.client.post(INFER, header + np.ones(2, np.float32).tobytes(), headers)
    assert answer.status == status
    assert answer.error


@pytest.mark.parametrize("size", [0, 4, 7, 9, 16, -8, 2**64, "8", None, 8.0])
def test_binary_sizes_that_lie(server, size):
    tensor = {
        "name": "x",
        "shape": [1, 2],
        "datatype": "FP32",
        "parameters": {"binary_data_size": size},
    }
    header = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))}
    answer = server.client.post(INFER, header + bytes(8), headers)
    assert answer.status == 400
    assert "'x'" in answer.error


# -- what is below requests --------------------------------------------------------------------


def exchange(server, data, *, then=b""):
    """Send raw bytes and return the status line and the body of the answer."""
    with socket.create_connection((server.host, server.port), timeout=30) as connection:
        connection.sendall(data)
        if then:
            connection.sendall(then)
        return read_response(connection)


def read_response(connection):
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(65536)
        if not chunk:
            return "", b""
        received += chunk
    head, _, content = received.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    while len(content) < int(fields.get(b"content-length", b"0")):
        chunk = connection.recv(65536)
        assert chunk, "the answer is complete"
        content += chunk
    return head.split(b"\r\n")[0].decode(), content


def head(length, path=INFER, extra=""):
    return f"POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n{extra}\r\n".encode()


def test_a_body_that_is_cut_off_harms_nobody(server):
    for length in (len(body()) + 1, 100_000):
        with socket.create_connection((server.host, server.port)) as connection:
            connection.sendall(head(length) + body())
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(30)
            status, _ = read_response(connection)
            assert " 200 " not in status


def test_a_content_length_that_is_too_short_cuts_the_request(server):
    status, content = exchange(server, head(10) + body())
    assert " 400 " in status
    assert set(json.loads(content)) == {"error"}


@pytest.mark.parametrize("length", ["-1", "abc", "1_0", "99999999999999999999999999"])
def test_a_content_length_that_is_none_is_refused(server, length):
    status, _ = exchange(server, head(length) + body())
    assert status == "" or " 400 " in status or " 413 " in status


@pytest.mark.parametrize("twice", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_lengths_that_contradict_each_other_are_refused(server, twice):
    """Or one server would see another request in the body than the next."""
    status, content = exchange(server, head(len(body()), extra=f"{twice}\r\n") + body())
    assert " 400 " in status
    assert set(json.loads(content)) == {"error"}


@pytest.mark.parametrize(
    ("lines", "status", "complaint"),
    [
        ("Host: a\r\nTransfer-Encoding: gzip", 501, "'gzip' is not supported, only chunked is"),
        ("Host: a\r\nTransfer-Encoding: gzip, chunked", 501, "'gzip, chunked' is not supported"),
        ("Host: a\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked", 501, "'gzip'"),
        ("Host: a\r\nTransfer-Encoding: identity", 501, "'identity'"),
        ("Host: a\r\nTransfer-Encoding: chunked, gzip", 400, "Transfer-Encoding"),
        ("Content-Length: 0", 400, "the request has 0 Host headers, it needs one"),
        ("Host: a\r\nHost: a\r\nContent-Length: 0", 400, "the request has 2 Host headers"),
    ],
)
@pytest.mark.parametrize("path", [INFER, "/v2/repository/index"])
def test_heads_that_http_forbids_or_nobody_reads(server, path, lines, status, complaint):
    status_line, content = exchange(server, f"POST {path} HTTP/1.1\r\n{lines}\r\n\r\n".encode())
    assert f" {status} " in status_line
    assert complaint in json.loads(content)["error"]


@pytest.mark.parametrize("hosts", ["", "Host: a\r\nHost: b\r\n"])
def test_a_binary_request_needs_one_host_also_if_it_is_known(server, hosts):
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32"}
    tensor["parameters"] = {"binary_data_size": 8}
    header = json.dumps({"inputs": [tensor]}).encode()
    lines = f"Inference-Header-Content-Length: {len(header)}\r\n"
    known = head(len(header) + 8, extra=lines)
    for data, status in (
        (known, 200),
        (known, 200),
        (known.replace(b"Host: t\r\n", hosts.encode()), 400),
    ):
        assert f" {status} " in exchange(server, data + header + bytes(8))[0]


def test_http_1_0_needs_no_host(server):
    status, _ = exchange(server, b"GET /v2/health/live HTTP/1.0\r\n\r\n")
    assert " 200 " in status


def test_a_body_over_the_limit(server):
    status, content = exchange(server, head(LIMIT + 1))
    assert " 413 " in status
    assert str(LIMIT) in json.loads(content)["error"]
    answer = server.client.post(INFER, body(shape=[50_000, 2], data=[1.5] * 100_000))
    assert answer.status == 413
    assert set(answer.json) == {"error"}


def test_a_chunked_body_over_the_limit(server):
    start = f"POST {INFER} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    status, content = exchange(server, start, then=chunk * (LIMIT // 0x10000 + 1))
    assert " 413 " in status
    assert set(json.loads(content)) == {"error"}


def test_thousands_of_tiny_chunks(server):
    start = f"POST {INFER} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    content = body() + b" " * 5000
    chunks = b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in content)
    status, answer = exchange(server, start + chunks, then=b"0\r\n\r\n")
    assert " 200 " in status
    assert json.loads(answer)["outputs"][0]["data"] == [4, 5]


@pytest.mark.parametrize(
    ("encoding", "content", "status"),
    [
        ("gzip", gzip.compress(body(), mtime=0), 200),
        ("deflate", zlib.compress(body()), 200),
        ("gzip", gzip.compress(b" " * 50_000_000, mtime=0), 413),
        ("gzip", b"no gzip at all", 400),
        ("gzip", zlib.compress(body()), 400),
        ("deflate", b"no deflate at all", 400),
        ("gzip", gzip.compress(body(), mtime=0)[:-1], 400),
        ("gzip", gzip.compress(body(), mtime=0) + b"garbage", 400),
        ("gzip", b"", 400),
        ("brotli", body(), 415),
        ("gzip, deflate", body(), 415),
    ],
)
def test_a_compressed_body_is_read_or_refused(server, encoding, content, status):
    answer = server.client.post(INFER, content, {"Content-Encoding": encoding})
    assert answer.status == status, answer.json
    if status != 200:
        assert answer.error
    if status == 415:
        assert answer.headers["Accept-Encoding"] == "gzip, deflate"


def test_no_http_at_all(server):
    for data in (b"\x16\x03\x01\x02\x00" * 20, b"GET\r\n\r\n", b"A" * 5000 + b"\r\n\r\n"):
        status, _ = exchange(server, data)
        assert status == "" or " 400 " in status


def test_headers_of_64_kilobytes_do_no_harm(server):
    status, _ = exchange(server, head(len(body()), extra=f"X: {'a' * 65_000}\r\n") + body())
    assert status == "" or any(code in status for code in (" 200 ", " 400 ", " 431 "))


def test_connections_that_say_nothing_are_harmless(server):
    idle = [socket.create_connection((server.host, server.port)) for _ in range(200)]
    half = [socket.create_connection((server.host, server.port)) for _ in range(20)]
    for connection in half:
        connection.sendall(head(1000)[:40])
    assert server.predict("all", [[1, 2]]).status == 200
    for connection in [*idle, *half]:
        connection.close()


def test_pipelined_requests_are_answered_in_order(server):
    with socket.create_connection((server.host, server.port), timeout=30) as connection:
        requests = [body(data=[i, i]) for i in range(20)]
        connection.sendall(b"".join(head(len(one)) + one for one in requests))
        received = b""
        while received.count(b'"data":[') < 20:
            received += connection.recv(65536)
    values = [part.split(b",")[0] for part in received.split(b'"data":[')[1:]]
    assert [float(value) for value in values] == [i + 3 for i in range(20)]


# -- names, versions, methods, paths -----------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/none",
        "/v2/models/none/ready",
        "/v2/models/none/config",
        "/v2/models/none/versions/1",
    ],
)
def test_unknown_models(server, path):
    response = server.client.get(path)
    assert response.status_code == 404
    assert response.json() == {"error": "Request for unknown model: 'none' is not found"}


@pytest.mark.parametrize("path", ["/v2/models/x/infer", "/v2/models/x/versions/1/infer"])
def test_inference_with_unknown_models(server, path):
    answer = server.client.post(path, body())
    assert answer.status == 404
    assert answer.error == "Request for unknown model: 'x' is not found"


def test_unknown_versions(server):
    for response in (
        server.client.http.post("/v2/models/all/versions/2/infer", content=body()),
        server.client.get("/v2/models/all/versions/2"),
        server.client.get("/v2/models/all/versions/2/ready"),
    ):
        assert response.status_code == 404
        assert response.json() == {
            "error": "Request for unknown model: 'all' version 2 is not found, it has version 1"
        }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", INFER, 405),
        ("PUT", INFER, 405),
        ("DELETE", "/v2/models/all", 405),
        ("POST", "/v2/health/ready", 405),
        ("GET", "/", 404),
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/all/nothing", 404),
        ("POST", "/v2/models/all/infer/more", 404),
        ("GET", "/v2/models/%2e%2e/%2e%2e/etc", 404),
        ("POST", "/v2/models/%00/infer", 404),
        ("POST", "/v2/models/a%2Fb/infer", 404),
    ],
)
def test_wrong_methods_and_paths(server, method, path, status):
    response = server.client.http.request(method, path)
    assert response.status_code == status
    assert set(response.json()) == {"error"}


# -- what is right -----------------------------------------------------------------------------


def test_metadata(server):
    get = server.client.get
    metadata = get("/v2").json()
    assert metadata == get("/v2/").json()
    assert metadata["name"] == "ensembled"
    assert metadata["version"]
    assert "binary_tensor_data" in metadata["extensions"]
    for name in ("all", "a"):
        for path in (f"/v2/models/{name}", f"/v2/models/{name}/versions/1"):
            assert get(path).json() == {
                "name": name,
                "versions": ["1"],
                "platform": "ensembled",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
                "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1, 2]}],
            }


def test_configuration_of_a_model(server):
    config = server.client.get("/v2/models/all/config").json()
    assert config == server.client.get("/v2/models/all/versions/1/config").json()
    assert config["name"] == "all"
    assert config["platform"] == "ensembled"
    assert config["max_batch_size"] > 0
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}]
    assert config["output"] == [{"name": "output", "data_type": "TYPE_FP32", "dims": [2]}]


def test_health(server):
    get = server.client.get
    assert (get("/v2/health/live").status_code, get("/v2/health/live").json()) == (
        200,
        {"live": True},
    )
    assert (get("/v2/health/ready").status_code, get("/v2/health/ready").json()) == (
        200,
        {"ready": True},
    )
    for path in ("/v2/models/all/ready", "/v2/models/b/versions/1/ready"):
        response = get(path)
        assert (response.status_code, response.json()["ready"]) == (200, True)


def test_ids_are_echoed(server):
    for sent in ("17", 'ünïcode "quoted"', "x" * 1000):
        document = {**json.loads(body()), "id": sent}
        answer = server.client.post(INFER, json.dumps(document).encode())
        assert answer.json["id"] == sent
        assert answer.json["model_name"] == "all"
        assert answer.json["model_version"] == "1"
    assert "id" not in server.client.post(INFER, body()).json


def test_classes_of_a_model_without_labels(server):
    document = json.loads(body())
    document["outputs"] = [{"name": "output", "parameters": {"classification": 1}}]
    answer = server.client.post(INFER, json.dumps(document).encode())
    assert answer.json["outputs"][0]["data"] == ["5.000000:1"]


def test_an_image_for_a_model_that_takes_none(server):
    answer = server.client.post(INFER, b"\xff\xd8\xff", {"Content-Type": "image/jpeg"})
    assert answer.status == 400
    assert "takes the inputs ['x']" in answer.error


def test_nothing_of_all_this_was_an_internal_error(shared):
    """Runs last in this file."""
    wait_for(shared.is_ready, "readiness")
    assert "Traceback" not in shared.stderr
