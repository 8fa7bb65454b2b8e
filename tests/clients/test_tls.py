"""https:// and grpcs://, with a certificate of our own."""

import shutil
import ssl
import subprocess

import grpc
import pytest
from ensembled_client import ServerFailure, Unavailable
from pretending import GrpcServer, HttpServer

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


@pytest.fixture(params=["https", "grpcs"])
def url(request, model, certificate):
    if request.param == "grpcs":
        path, key = (one.read_bytes() for one in certificate)
        credentials = grpc.ssl_server_credentials([(key, path)])
        with GrpcServer(model, credentials=credentials) as server:
            yield server.url
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
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
