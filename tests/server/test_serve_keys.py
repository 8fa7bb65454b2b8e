"""API keys and the limit per client, over HTTP and gRPC, against the real server."""

import json
import signal
import socket
import stat
from contextlib import contextmanager

import grpc
import httpx
import numpy as np
import pytest
from ensembled_client.wire.messages import METHODS
from grpc_calls import connected, infer_request
from serving import configuration, fake, running, wait_for
from typer.testing import CliRunner

from server.cli.key import make_key
from server.cli.main import app

pytestmark = pytest.mark.process

X = np.ones((1, 2), np.float32)
LIMIT_BYTES = 10_000
BODY = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}


def write_keys(path, **scopes):
    """Write a file of keys with these names and scopes; the keys by name."""
    keys = {name: make_key(name, tuple(which)) for name, which in scopes.items()}
    path.write_text("\n".join(key.entry for key in keys.values()) + "\n")
    path.chmod(0o600)
    return {name: key.key for name, key in keys.items()}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def keys(directory):
    return write_keys(directory / "keys.yaml", user=["infer"], monitor=["admin"])


@pytest.fixture(scope="module")
def guarded(directory, keys):
    config = configuration(
        {"m": fake(1)}, api_keys_file=str(directory / "keys.yaml"), max_request_bytes=LIMIT_BYTES
    )
    with running(config, directory) as server:
        yield server


def http(server, key=None):
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=server.url, headers=headers, timeout=60, trust_env=False)


HTTP_CALLS = {
    "nothing": [
        ("GET", "/v2/health/live"),
        ("GET", "/v2/health/ready"),
        ("GET", "/v2/health/ready/"),
    ],
    "look": [
        ("GET", "/v2"),
        ("GET", "/v2/models/all"),
        ("GET", "/v2/models/all/ready"),
        ("GET", "/v2/models/all/config"),
        ("GET", "/v2/models/all/versions/1"),
        ("HEAD", "/v2/models/all/versions/1/ready/"),
    ],
    "infer": [("POST", "/v2/models/all/infer"), ("POST", "/v2/models/m/versions/1/infer")],
    "admin": [
        ("GET", "/v2/models/stats"),
        ("GET", "/v2/models/all/stats"),
        ("GET", "/v2/models/all/versions/1/stats"),
        ("POST", "/v2/repository/index"),
        ("GET", "/openapi.json"),
        ("GET", "/metrics"),
    ],
    "nowhere": [
        ("GET", "/v2/models/none"),
        ("POST", "/v2/models/none/infer"),
        ("GET", "/docs"),
        ("GET", "/"),
    ],
}
GRPC_CALLS = {
    "nothing": ["ServerLive", "ServerReady"],
    "look": ["ServerMetadata", "ModelMetadata", "ModelReady", "ModelConfig"],
    "infer": ["ModelInfer"],
    "admin": ["ModelStatistics", "RepositoryIndex"],
}
CHANGES = ["RepositoryModelLoad", "RepositoryModelUnload"]
GOOD_FOR = {None: {"nothing"}, "user": {"nothing", "look", "infer"}}
GOOD_FOR["monitor"] = {"nothing", "look", "admin"}


def test_what_a_key_opens(guarded, keys):
    for who in GOOD_FOR:
        try_all(guarded, keys, who)
    assert {*sum(GRPC_CALLS.values(), []), *CHANGES} == served_methods(guarded, keys)


def test_a_change_needs_the_administrators_key(guarded, keys):
    refusals = {None: "an API key is needed", "user": "lacks the scope 'admin'"}
    # What the key opens is another matter than what the operator permits at all.
    refusals["monitor"] = "server.repository.control is none"
    for who, text in refusals.items():
        key = keys.get(who)
        with http(guarded, key) as client, connected(guarded.grpc, key=key or "") as channel:
            for method in CHANGES:
                with pytest.raises(grpc.RpcError) as refusal:
                    channel.call(method, model_name="m")
                assert text in refusal.value.details()
            for path in ("models/m/load", "models/m/unload"):
                assert text in client.post(f"/v2/repository/{path}").json()["error"]
            if who != "monitor":
                assert text in client.post("/v2/repository/reload").json()["error"]


def try_all(guarded, keys, who):
    key = keys.get(who)
    with http(guarded, key) as client, connected(guarded.grpc, key=key or "") as channel:
        for need, calls in HTTP_CALLS.items():
            for method, path in calls:
                response = client.request(method, path, json=BODY if method == "POST" else None)
                if need in GOOD_FOR[who]:
                    assert response.status_code == 200, (path, response.text)
                elif who is None:
                    assert response.status_code == 401, path
                    assert response.headers["www-authenticate"] == "Bearer"
                    if method != "HEAD":
                        text = "an API key is needed: Authorization: Bearer KEY"
                        assert response.json() == {"error": text}
                elif need == "nowhere":
                    assert response.status_code in {403, 404}, path
                else:
                    assert response.status_code == 403, path
        for need, methods in GRPC_CALLS.items():
            for method in methods:
                code = grpc_code(channel, method)
                if need in GOOD_FOR[who]:
                    assert code is None, method
                else:
                    refused = "UNAUTHENTICATED" if who is None else "PERMISSION_DENIED"
                    assert code == refused, method


def grpc_code(channel, method, x=X):
    """The status of a call, None if it was answered."""
    try:
        if method == "ModelInfer":
            channel.infer("all", x)
        elif method in {"ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"}:
            channel.call(method, name="all")
        else:
            channel.call(method)
    except grpc.RpcError as error:
        return error.code().name
    return None


def served_methods(server, keys):
    """Those that do something, whoever calls them."""
    with connected(server.grpc, key=keys["monitor"]) as channel:
        unary = [name for name in METHODS if name != "ModelStreamInfer"]
        return {name for name in unary if grpc_code(channel, name) != "UNIMPLEMENTED"}


def test_the_command_line_shows_a_key(guarded, keys, tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", X)
    asked = ["predict", "m", str(tmp_path / "x.npy"), "--json", "--url"]
    for url in (guarded.url, f"grpc://{guarded.grpc}"):
        monkeypatch.setenv("ENSEMBLED_API_KEY", keys["user"])
        answered = CliRunner().invoke(app, [*asked, url])
        assert json.loads(answered.stdout)["rows"][0]["values"] == [2, 2], answered.output
        monkeypatch.delenv("ENSEMBLED_API_KEY")
        refused = CliRunner().invoke(app, [*asked, url])
        assert refused.exit_code == 2
        assert refused.stderr == "error: an API key is needed: Authorization: Bearer KEY\n"


def test_the_sockets_are_the_owners_alone(guarded):
    (directory,) = guarded.temporary.glob("ensembled-*")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [path for path in directory.iterdir() if path.is_socket()]


def test_a_stream_needs_a_key(guarded, keys):
    requests = [infer_request("all", X)]
    for key, code in (("", "UNAUTHENTICATED"), (keys["monitor"], "PERMISSION_DENIED")):
        with connected(guarded.grpc, key=key) as channel:
            with pytest.raises(grpc.RpcError) as refusal:
                list(channel.stream(requests))
            assert refusal.value.code().name == code
    with connected(guarded.grpc, key=keys["user"]) as channel:
        (answer,) = channel.stream(requests)
        assert answer.error_message == ""


def binary_request(**parameters):
    """One whose header the server will know again."""
    tensor = BODY["inputs"][0] | {"parameters": {"binary_data_size": X.nbytes}}
    del tensor["data"]
    header = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    return {
        "content": header + X.tobytes(),
        "headers": {"Inference-Header-Content-Length": str(len(header))},
    }


def test_urgent_requests_may_be_for_some_keys_only(serve, tmp_path):
    path = tmp_path / "keys.yaml"
    keys = write_keys(path, user=["infer"], boss=["infer", "urgent"], late=["urgent"])
    server = serve(configuration({"m": fake(1)}, api_keys_file=str(path)))
    urgent = [binary_request(priority=1), {"json": BODY | {"parameters": {"priority": 1}}}]
    normal = [binary_request(), {"json": BODY}, {"json": BODY | {"parameters": {"priority": 2}}}]
    refused = "the API key of 'user' lacks the scope 'urgent'"
    with http(server, keys["user"]) as user, http(server, keys["boss"]) as boss:
        for _ in range(2):  # what one may send and the server knows again is not for all
            for client, request in [(boss, one) for one in urgent] + [
                (user, one) for one in normal
            ]:
                assert client.post("/v2/models/all/infer", **request).status_code == 200
            for request in urgent:
                response = user.post("/v2/models/all/infer", **request)
                assert (response.status_code, response.json()) == (403, {"error": refused})
    with http(server, keys["late"]) as late:
        assert late.post("/v2/models/all/infer", **normal[0]).status_code == 403
    with connected(server.grpc, key=keys["user"]) as channel:
        assert channel.infer("all", X).values.tolist() == [[2, 2]]
        with pytest.raises(grpc.RpcError) as refusal:
            channel.infer("all", X, priority=1)
        assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
        requests = [infer_request("all", X, priority=number) for number in (1, 0)]
        assert [answer.error_message for answer in channel.stream(requests)] == [refused, ""]
    with connected(server.grpc, key=keys["boss"]) as channel:
        assert channel.infer("all", X, priority=1).values.tolist() == [[2, 2]]


def test_without_a_key_for_urgent_requests_all_keys_may_send_them(guarded, keys):
    with http(guarded, keys["user"]) as client:
        response = client.post("/v2/models/all/infer", **binary_request(priority=1))
        assert response.status_code == 200


def test_a_body_without_a_key_is_not_read(guarded):
    with http(guarded) as client:  # else it would be too large
        response = client.post("/v2/models/all/infer", content=b"x" * (8 << 20))
        assert response.status_code == 401
        assert response.headers["connection"] == "close"
    with connected(guarded.grpc) as channel:
        rows = np.ones((LIMIT_BYTES, 2))
        assert grpc_code(channel, "ModelInfer", rows) == "UNAUTHENTICATED"


def test_no_key_and_no_hash_is_ever_logged(serve, tmp_path):
    keys = write_keys(tmp_path / "keys.yaml", user=["infer"])
    config = configuration(
        {"m": fake(1)}, api_keys_file=str(tmp_path / "keys.yaml"), log_level="debug"
    )
    server = serve(config)
    entry = (tmp_path / "keys.yaml").read_text()
    with http(server, keys["user"]) as client:
        assert client.post("/v2/models/all/infer", json=BODY).status_code == 200
        assert client.post("/v2/models/all/infer", content=b"{").status_code == 400
        assert client.get("/openapi.json").status_code == 403
    with http(server, "no-such-key") as client:
        assert client.get("/v2").status_code == 401
    server.process.send_signal(signal.SIGHUP)
    (tmp_path / "keys.yaml").write_text(keys["user"])  # a mistake that people make
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "nothing is changed" in server.stderr, "the mistake is found")
    digest = entry.partition("sha256:")[2][:64]
    wait_for(lambda: "refused: the API key is not known" in server.stderr, "the refusal")
    for secret in (keys["user"], digest, "no-such-key"):
        assert secret not in server.stderr
    for process in [server.process, *server.children()]:
        assert not [text for text in process.cmdline() if keys["user"] in text or digest in text]


# -- the limit per client ----------------------------------------------------------------------


@contextmanager
def held(server, key="", path="/v2/models/all/infer"):
    """A request whose body never ends, which is at work as long as its client likes."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n"
    if key:
        head += f"Authorization: Bearer {key}\r\n"
    with socket.create_connection((server.host, server.port)) as connection:
        connection.sendall(head.encode() + b"\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")  # admitted: its body is awaited
        yield connection


def is_full(client):
    return client.get("/v2/models/all").status_code == 429


@pytest.mark.parametrize("with_keys", [True, False])
def test_a_client_has_only_so_many_requests_at_work(serve, tmp_path, with_keys):
    more = {}
    keys = {"user": None, "other": None}
    if with_keys:
        keys = write_keys(tmp_path / "keys.yaml", user=["infer"], other=["infer"])
        more["api_keys_file"] = str(tmp_path / "keys.yaml")
    more["access_log"] = "all"
    server = serve(configuration({"m": fake(1)}, limits={"client_requests": 2}, **more))
    key = keys["user"] or ""
    with (
        http(server, keys["user"]) as client,
        http(server, keys["other"]) as other,
        connected(server.grpc, key=key) as channel,
        held(server, key),
    ):
        assert client.post("/v2/models/all/infer", json=BODY).status_code == 200
        with held(server, key) as second:
            assert is_full(client)
            response = client.post("/v2/models/all/infer", json=BODY)
            assert response.status_code == 429
            assert response.headers["retry-after"] == "1"
            assert "2 requests of this client" in response.json()["error"]
            assert client.get("/v2/health/ready").status_code == 200
            assert is_full(other) is not with_keys
            with pytest.raises(grpc.RpcError) as refusal:
                channel.infer("all", X)
            assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert ("retry-after", "1") in refusal.value.trailing_metadata()
            (answer,) = channel.stream([infer_request("all", X, request_id="7")])
            assert "2 requests of this client" in answer.error_message
            second.close()
        wait_for(lambda: not is_full(client), "the request has gone")
        assert channel.infer("all", X).values.tolist() == [[2, 2]]
        (answer,) = channel.stream([infer_request("all", X)])
        assert answer.error_message == ""
    wait_for(lambda: "INFO ensembled front-end: refused: 2 req" in server.stderr, "the refusal")
