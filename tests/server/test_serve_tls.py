"""TLS and mutual TLS over HTTP and gRPC, against the real server."""

import json
import ssl
from contextlib import contextmanager

import grpc
import httpx
import numpy as np
import pytest
from certificates import Authority, encrypted
from grpc_calls import connected
from serving import configuration, fake
from typer.testing import CliRunner

from server.cli.main import app

pytestmark = pytest.mark.process

X = np.ones((1, 2), np.float32)
BODY = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def tls_of(authority, **more):
    certificate, key = authority.sign("server")
    files = {"certificate": certificate, "key": key, **more}
    return {name: str(path) for name, path in files.items()}


def https(server, context):
    url = f"https://127.0.0.1:{server.port}"
    return httpx.Client(base_url=url, verify=context, timeout=60, trust_env=False)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_both_protocols_are_encrypted_and_nothing_else_is_answered(serve, authority):
    server = serve(configuration({"m": fake(1)}, tls=tls_of(authority)))
    with https(server, authority.context()) as client:
        answer = client.post("/v2/models/all/infer", json=BODY).json()
        assert answer["outputs"][0]["data"] == [2, 3]
    with connected(server.grpc, credentials=authority.credentials()) as channel:
        assert channel.infer("all", X).values.tolist() == [[2, 2]]
    with pytest.raises(httpx.TransportError):
        server.client.get("/v2/health/live")
    with connected(server.grpc) as channel, pytest.raises(grpc.RpcError):
        channel.call("ServerLive")
    for address in (f"{server.host}:{server.port}", server.grpc):
        with encrypted(address, authority.context()) as connection:
            assert connection.version() == "TLSv1.3"
            assert (("commonName", "server"),) in connection.getpeercert()["subject"]
        old = authority.context()
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("DEFAULT@SECLEVEL=0")
        with (
            pytest.raises(ssl.SSLError, match="alert protocol version|EOF"),
            encrypted(address, old),
        ):
            pass


@contextmanager
def held(server, context):
    """A request whose body never ends."""
    with encrypted(f"{server.host}:{server.port}", context) as connection:
        head = "POST /v2/models/all/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
        connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")  # admitted: its body is awaited
        yield


def test_clients_must_show_a_certificate_of_the_right_authority(serve, authority, tmp_path):
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other").sign("alice")
    alice, bob = authority.sign("alice", "alice@x.org"), authority.sign("bob", "bob@x.org")
    tls = tls_of(authority, client_ca=authority.path)
    server = serve(configuration({"m": fake(1)}, tls=tls, limits={"client_requests": 1}))
    names = ("root_certificates", "certificate", "key")
    options = [f"--{name.replace('_', '-')}" for name in names]
    files = [str(path) for path in (authority.path, *alice)]
    x = tmp_path / "x.npy"
    np.save(x, X)
    for url in (f"https://127.0.0.1:{server.port}", f"grpcs://{server.grpc}"):
        asked = ["predict", "m", str(x), "--json", "--url", url]
        shown = [word for pair in zip(options, files, strict=True) for word in pair]
        answered = CliRunner().invoke(app, [*asked, *shown])
        assert json.loads(answered.stdout)["rows"][0]["values"] == [2, 2], answered.output
    for shown in (None, stranger):
        with https(server, authority.context(shown)) as client, pytest.raises(httpx.TransportError):
            client.get("/v2/health/live")
        with connected(server.grpc, credentials=authority.credentials(shown)) as channel:
            with pytest.raises(grpc.RpcError) as refusal:
                channel.call("ServerLive")
            assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    with (
        https(server, authority.context(alice)) as client,
        https(server, authority.context(bob)) as other,
        connected(server.grpc, credentials=authority.credentials(alice)) as channel,
        connected(server.grpc, credentials=authority.credentials(bob)) as other_channel,
    ):
        assert client.post("/v2/models/all/infer", json=BODY).status_code == 200
        assert channel.infer("all", X).values.tolist() == [[2, 2]]
        with held(server, authority.context(alice)):  # a client is whom its certificate names
            assert client.get("/v2").status_code == 429
            assert other.get("/v2").status_code == 200
            assert other_channel.infer("all", X).values.tolist() == [[2, 2]]
            with pytest.raises(grpc.RpcError) as refusal:
                channel.infer("all", X)
            assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
