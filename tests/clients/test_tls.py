"""https:// and grpcs://, with a certificate of our own."""

import contextlib
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading

import grpc
import pytest
from ensembled_client import EnsembledClientError, ServerFailure, Unavailable
from stub_servers import GrpcServer, HttpServer

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """The paths of a certificate for localhost, and of its key."""
    directory = tmp_path_factory.mktemp("tls")
    paths = directory / "certificate.pem", directory / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    command += " -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run(
        [*command.split(), "-out", paths[0], "-keyout", paths[1]], check=True, capture_output=True
    )
    return paths


@pytest.fixture
def wants_certificate():
    """Whether the server asks for a certificate; the only one it trusts is its own."""
    return False


@pytest.fixture(params=["https", "grpcs"])
def url(request, model, certificate, wants_certificate):
    if request.param == "grpcs":
        path, key = (one.read_bytes() for one in certificate)
        credentials = grpc.ssl_server_credentials(
            [(key, path)],
            root_certificates=path if wants_certificate else None,
            require_client_auth=wants_certificate,
        )
        with GrpcServer(model, credentials=credentials) as server:
            yield server.url
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    if wants_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificate[0])
    with HttpServer(model) as server:
        server.handle_error = lambda *_: None  # a client that hangs up is part of the test
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        yield f"https://localhost:{server.server_port}"


def test_a_certificate_to_trust(make, url, certificate):
    client = make(url, root_certificates=certificate[0])
    client.wait_until_ready(30)
    assert client.predict("duo", [[1, 2]]).values.tolist() == [[2, 3]]


def test_a_certificate_that_is_not_trusted(model, make, url):
    # grpcio does not tell why it could not connect.
    error, text = {
        "https": (ServerFailure, "certificate is not trusted"),
        "grpcs": (Unavailable, "can't be reached"),
    }[url.split(":")[0]]
    with pytest.raises(error, match=text):
        make(url).predict("duo", [[1, 2]])
    assert model.seen == []


@pytest.mark.parametrize("wants_certificate", [True])
def test_a_certificate_to_show(make, url, certificate):
    path, key = certificate
    client = make(url, root_certificates=path, certificate=path, key=key)
    client.wait_until_ready(30)
    assert client.predict("duo", [[1, 2]]).values.tolist() == [[2, 3]]
    with pytest.raises(EnsembledClientError):
        make(url, root_certificates=path, retries=0).predict("duo", [[1, 2]], timeout=10)


def test_a_certificate_that_is_missed_after_the_handshake(make, certificate):
    """In TLS 1.3 the client has ended its part by then, and is told while it awaits an answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificate[0])
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as open_ones:

        def refuse():
            connection, _ = listener.accept()
            encrypted = context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
            open_ones.enter_context(encrypted)  # that it is closed would tell the client, too
            with contextlib.suppress(ssl.SSLError):
                encrypted.do_handshake()

        refusing = threading.Thread(target=refuse)
        refusing.start()
        url = f"https://localhost:{listener.getsockname()[1]}"
        client = make(url, root_certificates=certificate[0], retries=0)
        with pytest.raises(Unavailable, match="certificate required"):
            client.predict("duo", [[1, 2]], timeout=60)
        refusing.join()


class Tunnel(socketserver.BaseRequestHandler):
    """A proxy that answers CONNECT, and then passes bytes on both ways."""

    def handle(self):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.request.recv(1)
        self.server.targets.append(head.split()[:2])
        host, _, port = head.split()[1].decode().rpartition(":")
        with socket.create_connection((host, int(port))) as far:
            self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=self.pump, args=(far, self.request))
            back.start()
            self.pump(self.request, far)
            back.join()

    @staticmethod
    def pump(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("url", ["https"], indirect=True)
def test_through_a_proxy_that_tunnels(make, url, certificate, monkeypatch):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as proxy:
        proxy.targets = []
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.server_address[1]}")
        monkeypatch.setenv("no_proxy", "")
        client = make(url, root_certificates=certificate[0])
        for _ in range(3):
            assert client.predict("duo", [[1, 2]]).values.tolist() == [[2, 3]]
        assert proxy.targets == [[b"CONNECT", url.removeprefix("https://").encode()]]
        client.__exit__(None, None, None)
        proxy.shutdown()


def test_files_that_are_missing_or_are_something_else(make, certificate, tmp_path):
    path, key = certificate
    url = "https://localhost:1"
    for given, text in (
        ({"certificate": path}, "a certificate and its key go together"),
        ({"certificate": path, "key": tmp_path / "none"}, "no key at"),
        ({"certificate": path, "key": path}, "are no certificate and its key"),
    ):
        with pytest.raises(EnsembledClientError, match=text):
            make(url, **given)
