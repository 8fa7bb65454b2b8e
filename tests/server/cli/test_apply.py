import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from server.cli.main import app

CHANGE = {"generation": 3, "changes": ["members.cat: its file has changed", "members.dog: added"]}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        assert self.path == self.server.path
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((json.loads(body), self.headers.get("Authorization")))
        status, document = self.server.answer
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """Answers as a test says."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.answer = [], (200, CHANGE)
    server.path = "/v2/repository/reload"
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def apply(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def apply(*options, url=server.url):
        return CliRunner().invoke(app, ["apply", "config.yaml", "--url", url, *options])

    return apply


def test_what_has_changed_is_printed(server, apply, tmp_path):
    result = apply()
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [*CHANGE["changes"], "generation 3 is served"]
    assert server.asked == [({"path": str(tmp_path / "config.yaml"), "dry_run": False}, None)]


def test_a_dry_run(server, apply):
    result = apply("--dry-run", "--key", "secret")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "generation 3 goes on (--dry-run)"
    ((asked, authorization),) = server.asked
    assert (asked["dry_run"], authorization) == (True, "Bearer secret")


def test_the_key_may_be_in_the_environment(server, apply, monkeypatch):
    monkeypatch.setenv("ENSEMBLED_API_KEY", "secret")
    assert apply().exit_code == 0
    assert server.asked[0][1] == "Bearer secret"


def test_nothing_to_change(server, apply):
    server.answer = (200, {"generation": 1, "changes": []})
    assert apply().stdout.splitlines() == ["nothing changes", "generation 1 is served"]


@pytest.mark.parametrize("status", [400, 401, 403, 409])
def test_what_the_server_refuses(server, apply, status):
    server.answer = (status, {"error": "members.cat.model: there is no file x.onnx\nand more"})
    result = apply()
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == ("error: members.cat.model: there is no file x.onnx\nerror: and more\n")


def test_servers_that_give_no_answer(server, apply):
    server.answer = (500, {"error": "internal error"})
    assert apply().exit_code == 1
    result = apply(url="http://127.0.0.1:9")
    assert result.exit_code == 1
    assert "the server can't be reached" in result.stderr


def test_servers_that_can_not_be_asked(server, apply):
    server.answer = (404, {"error": "Not Found"})
    assert "the server can't change what it serves" in apply().stderr
    for url in ("server", "grpc://127.0.0.1:9"):
        assert apply(url=url).exit_code == 2


@pytest.fixture
def allocate(server, tmp_path):
    server.path = "/v2/repository/placement"
    fake = {"model": "fake", "fake": {"inputs": {"x": [4]}, "outputs": 2}}
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"members": {"a": fake}, "devices": [{"name": "cpu:0"}]}))

    def allocate(*options):
        arguments = ["allocate", str(path), "--apply", "--url", server.url, *options]
        return CliRunner().invoke(app, arguments)

    return allocate


@pytest.mark.process
def test_an_allocation_is_applied(server, allocate):
    result = allocate("--key", "secret")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-3:] == [*CHANGE["changes"], "generation 3 is served"]
    ((asked, authorization),) = server.asked
    assert (asked["members"], asked["devices"]) == (["a"], ["cpu:0"])
    assert authorization == "Bearer secret"


def test_what_an_allocation_to_apply_needs(server, allocate):
    assert "--apply needs CONFIG, and excludes --json" in allocate("--json").stderr
    result = CliRunner().invoke(app, ["allocate", "config.yaml", "--dry-run"])
    assert "--dry-run needs --apply" in result.stderr


@pytest.fixture
def rollout(server):
    server.path = "/v2/models/cat/rollout"

    def rollout(*arguments):
        return CliRunner().invoke(app, ["rollout", "cat", *arguments, "--url", server.url])

    return rollout


def test_roll_outs(server, rollout):
    server.answer = (200, {"generation": 4, "changes": ["members.cat: version 2 is promoted"]})
    result = rollout("promote", "--key", "secret")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "members.cat: version 2 is promoted",
        "generation 4 is served",
    ]
    assert rollout("percent", "20").exit_code == rollout("rollback").exit_code == 0
    assert [asked for asked, _ in server.asked] == [
        {"action": "promote"},
        {"action": "percent", "percent": 20.0},
        {"action": "rollback"},
    ]


def test_roll_outs_that_are_wrong(server, rollout):
    for arguments in (["percent"], ["promote", "20"], ["stop"], ["percent", "101"]):
        assert rollout(*arguments).exit_code == 2
    assert server.asked == []
    for status in (400, 404, 409):
        server.answer = (status, {"error": "model 'cat' has no roll-out"})
        result = rollout("rollback")
        assert (result.exit_code, result.stderr) == (2, "error: model 'cat' has no roll-out\n")
