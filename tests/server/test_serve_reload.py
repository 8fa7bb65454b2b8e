"""SIGHUP: keys, certificates and the log level change while requests are under way."""

import json
import queue
import re
import signal

import grpc
import httpx
import numpy as np
import pytest
import yaml
from certificates import Authority, encrypted
from grpc_calls import connected, infer_request
from serving import configuration, fake, wait_for

from server.cli.key import make_key

pytestmark = pytest.mark.process

X = np.ones((1, 2), np.float32)
BODY = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}


class Guarded:
    """A server with keys and TLS, and its files."""

    def __init__(self, serve, directory):
        self.authority = Authority(directory)
        certificate, key = self.authority.sign("server")
        tls = {"certificate": str(certificate), "key": str(key)}
        self.keys = directory / "keys.yaml"
        self.key = self.write_key("first")
        config = configuration({"m": fake(1)}, tls=tls, api_keys_file=str(self.keys))
        self.server = serve(config)
        self.config = next(directory.glob("server-*")) / "config.yaml"

    def write_key(self, name):
        made = make_key(name, ("infer",))
        self.keys.write_text(made.entry + "\n")
        self.keys.chmod(0o600)
        return made.key

    def change_config(self, change):
        config = yaml.safe_load(self.config.read_text())
        change(config)
        self.config.write_text(yaml.safe_dump(config))

    def reload(self, line):
        """Have the server read again, and wait for a line of the log."""
        before = self.server.stderr.count(line)
        self.server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: self.server.stderr.count(line) > before, line)

    def client(self, key):
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.server.port}",
            headers={"Authorization": f"Bearer {key}"},
            verify=self.authority.context(),
            timeout=60,
            trust_env=False,
        )

    def channel(self, key):
        return connected(self.server.grpc, credentials=self.authority.credentials(), key=key)

    def connection(self):
        """A TLS connection to the HTTP port."""
        return encrypted(f"127.0.0.1:{self.server.port}", self.authority.context())

    def serial_numbers(self):
        """Of the certificates that new connections are shown, by port."""
        shown = set()
        for address in (f"127.0.0.1:{self.server.port}", self.server.grpc):
            with encrypted(address, self.authority.context()) as connection:
                shown.add(connection.getpeercert()["serialNumber"])
        return shown


@pytest.fixture
def guarded(serve, tmp_path):
    return Guarded(serve, tmp_path)


RELOADED = "configuration reloaded"


def test_keys_and_certificates_change_while_requests_are_under_way(guarded):
    body = json.dumps(BODY).encode()
    head = f"POST /v2/models/all/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    head += f"Authorization: Bearer {guarded.key}\r\n\r\n"
    old_key = guarded.key
    with (
        guarded.connection() as under_way,
        guarded.client(old_key) as client,
        guarded.channel(old_key) as channel,
    ):
        under_way.sendall(head.encode() + body[:5])
        assert client.post("/v2/models/all/infer", json=BODY).status_code == 200
        assert channel.infer("all", X).values.tolist() == [[2, 2]]
        before = guarded.serial_numbers()
        guarded.authority.sign("server")
        new_key = guarded.write_key("second")
        guarded.reload(RELOADED)

        under_way.sendall(body[5:])
        assert under_way.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        assert client.get("/v2").status_code == 401
        client.headers["Authorization"] = f"Bearer {new_key}"
        assert client.get("/v2").status_code == 200
        with pytest.raises(grpc.RpcError) as refusal:
            channel.infer("all", X)
        assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED
    after = guarded.serial_numbers()
    assert not before & after

    guarded.server.kill("front-end")  # the next one goes by what was reloaded
    with guarded.client(new_key) as client, guarded.channel(new_key) as channel:
        wait_for(lambda: is_answered(client), "another front-end", 60)
        assert guarded.serial_numbers() == after
        wait_for(channel.is_ready, "another gRPC server")
        assert channel.infer("all", X).values.tolist() == [[2, 2]]
    with guarded.client(old_key) as client:
        assert client.get("/v2").status_code == 401


def is_answered(client):
    try:
        return client.post("/v2/models/all/infer", json=BODY).status_code == 200
    except httpx.TransportError:
        return False


def test_a_stream_that_is_open_needs_its_key_for_every_message(guarded):
    messages = queue.SimpleQueue()
    with guarded.channel(guarded.key) as channel:
        answers = channel.stream(iter(messages.get, None))
        messages.put(infer_request("all", X))
        assert next(answers).error_message == ""
        guarded.write_key("second")
        guarded.reload(RELOADED)
        messages.put(infer_request("all", X))
        assert next(answers).error_message == "the API key is not known"
        messages.put(None)
        assert list(answers) == []


def test_what_is_wrong_changes_nothing_and_what_needs_a_restart_is_named(guarded):
    server, path = guarded.server, guarded.config
    before = guarded.serial_numbers()
    right = path.read_text()
    wrong = {
        "nothing is changed: [^\n]*config.yaml: server.htp_port: unknown key": lambda c: c[
            "server"
        ].update(htp_port=1),
        "nothing is changed: server.api_keys: serving without keys requires a restart": lambda c: c[
            "server"
        ].pop("api_keys_file"),
        "nothing is changed: server.tls.key: it is not the key of server.tls.certificate": (
            lambda c: c["server"]["tls"].update(key=str(guarded.authority.sign("other")[1]))
        ),
    }
    for line, change in wrong.items():
        guarded.change_config(change)
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda line=line: re.search(line, server.stderr), line)
        path.write_text(right)
    assert RELOADED not in server.stderr

    def change(config):
        config["server"] |= {"max_image_pixels": 7, "log_level": "warning", "http_port": 1}
        config["server"]["tls"]["client_ca"] = str(guarded.authority.path)

    guarded.change_config(change)
    guarded.reload("server.tls.client_ca has changed, which requires a restart")
    named = set(re.findall(r"(\S+) has changed, which requires a restart", server.stderr))
    assert named == {"server.max_image_pixels", "server.tls.client_ca"}
    with guarded.client(guarded.key) as client:  # it asks for no certificate yet
        assert client.post("/v2/models/all/infer", json=BODY).json()["outputs"][0]["data"] == [2, 3]
    assert guarded.serial_numbers() == before
    # The level is higher now, so that the next time it says less.
    guarded.change_config(lambda config: config["server"].update(log_level="info"))
    guarded.reload(RELOADED)
    assert server.stderr.count(RELOADED) == 1


def test_every_reload_leaves_what_it_found(guarded):
    front_end = guarded.server.child("front-end")
    with guarded.client(guarded.key) as client:
        assert client.get("/v2").status_code == 200
        guarded.reload(RELOADED)
        files = wait_for(front_end.num_fds, "files")
        for _ in range(5):
            guarded.reload(RELOADED)
            assert client.get("/v2").status_code == 200
        wait_for(lambda: front_end.num_fds() <= files, "as many files as before")


def test_a_signal_that_comes_before_the_server_is_up(serve):
    server = serve(configuration({"m": fake(1)}), ready=False)
    server.child("combiner")
    server.process.send_signal(signal.SIGHUP)
    server.wait_ready()
    wait_for(lambda: "is served" in server.stderr, "it is read again")
    assert server.predict("all", X).values.tolist() == [[2, 2]]


def test_a_signal_to_the_whole_group_ends_no_process(serve):
    server = serve(configuration({"m": fake(1)}))
    pids = {child.pid for child in server.children()}
    for child in server.children():
        child.send_signal(signal.SIGHUP)
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "is served" in server.stderr, "the reload")
    np.testing.assert_array_equal(server.predict("m", X).values, X + 1)
    assert {child.pid for child in server.children()} == pids
