import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from server.cli.health import check_ready
from server.cli.main import app
from server.config import Config, override_server
from server.errors import ConfigError, StartError
from tests.support.certificates import Authority

MEMBERS = {"a": {"model": "fake", "fake": {"inputs": {"x": [4]}, "outputs": 2}}}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        assert self.path == "/v2/health/ready"
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def answering():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.status = 200
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def encrypted(answering, tmp_path):
    """Let the server use TLS, optionally mutual; yields a function that returns its section."""

    def encrypt(*, wants_certificate=False, signed_by=None):
        authority = Authority(tmp_path)
        certificate, key = authority.sign("server", "models.example")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        section = {"certificate": certificate, "key": key}
        if wants_certificate:
            section["client_ca"] = (signed_by or authority).path
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(section["client_ca"])
        answering.socket = context.wrap_socket(answering.socket, server_side=True)
        return section

    return encrypt


def configured(**server):
    return override_server(Config(members=MEMBERS), **server)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_server_that_is_ready(answering, host):
    config = configured(host=host, http_port=answering.server_port)
    line = check_ready(config, timeout_s=10)
    assert line == f"127.0.0.1:{answering.server_port} is ready"


def test_a_server_that_is_not_ready(answering):
    answering.status = 503
    with pytest.raises(StartError, match="is not ready: /v2/health/ready answers 503"):
        check_ready(configured(http_port=answering.server_port), timeout_s=10)


def test_no_server(answering):
    port = answering.server_port
    answering.shutdown()
    answering.server_close()
    with pytest.raises(StartError, match=rf"127.0.0.1:{port} does not answer: .*refused"):
        check_ready(configured(http_port=port), timeout_s=10)


def test_a_server_with_a_certificate_for_other_names(answering, encrypted):
    config = configured(http_port=answering.server_port, tls=encrypted())
    assert check_ready(config, timeout_s=10).endswith(" is ready")
    with pytest.raises(StartError, match="does not answer"):
        check_ready(configured(http_port=answering.server_port), timeout_s=10)


def test_a_server_that_wants_to_see_a_certificate_is_shown_its_own(answering, encrypted):
    config = configured(http_port=answering.server_port, tls=encrypted(wants_certificate=True))
    assert check_ready(config, timeout_s=10).endswith(" is ready")


def test_a_server_that_takes_only_other_certificates(answering, encrypted, tmp_path):
    (tmp_path / "other").mkdir()
    section = encrypted(wants_certificate=True, signed_by=Authority(tmp_path / "other"))
    with pytest.raises(StartError, match="does not answer"):
        check_ready(configured(http_port=answering.server_port, tls=section), timeout_s=10)


def test_any_free_port_is_not_to_be_found():
    with pytest.raises(ConfigError, match="http_port is 0"):
        check_ready(configured(http_port=0), timeout_s=10)


def test_the_command_takes_its_configuration_from_the_environment(answering, tmp_path, monkeypatch):
    text = "members: {a: {model: fake, fake: {inputs: {x: [4]}, outputs: 2}}}"
    (tmp_path / "config.yaml").write_text(text)
    monkeypatch.setenv("ENSEMBLED_CONFIG", str(tmp_path / "config.yaml"))
    monkeypatch.setenv("ENSEMBLED_SERVER__HTTP_PORT", str(answering.server_port))
    result = CliRunner().invoke(app, ["health"])
    assert (result.exit_code, result.stdout) == (
        0,
        f"127.0.0.1:{answering.server_port} is ready\n",
    ), result.output
    answering.status = 503
    result = CliRunner().invoke(app, ["health"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
