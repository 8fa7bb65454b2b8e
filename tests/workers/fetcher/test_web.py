"""Files over HTTP: connections that break, redirects that are followed, and those that are not."""

import pytest

from tests.support.file_server import file_server
from workers.fetcher import web
from workers.fetcher.protocol import FetchError

CONTENT = bytes(range(256)) * 1000


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with file_server() as server:
        server.files["/net.onnx"] = CONTENT
        yield server


def fetch(server, path, name="/net.onnx"):
    return web.fetch(f"{server.url}{name}", "", path, lambda *_: None)


def test_a_connection_that_breaks_is_continued(server, tmp_path):
    server.breaks["/net.onnx"] = 1000
    assert fetch(server, tmp_path / "net").startswith('"')
    assert (tmp_path / "net").read_bytes() == CONTENT
    assert [headers.get("Range") for *_, headers in server.asked] == [None, "bytes=1000-"]


def test_a_file_that_changes_meanwhile_begins_again(server, tmp_path):
    server.breaks["/net.onnx"] = 1000

    def change(done, _total):
        if done == 1000:
            server.files["/net.onnx"] = b"newer"

    web.fetch(f"{server.url}/net.onnx", "", tmp_path / "net", change)
    assert (tmp_path / "net").read_bytes() == b"newer"


def test_without_a_version_a_broken_connection_is_an_error(server, tmp_path):
    server.has_etags = False
    server.breaks["/net.onnx"] = 1000
    with pytest.raises(Exception, match="payload is not completed|not all data"):
        fetch(server, tmp_path / "net")


def test_progress_ends_with_the_whole_file(server, tmp_path):
    seen = []
    web.fetch(f"{server.url}/net.onnx", "", tmp_path / "net", lambda *one: seen.append(one))
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_redirect_on_the_same_machine_is_followed(server, tmp_path):
    server.redirects["/old.onnx"] = "net.onnx"
    fetch(server, tmp_path / "net", "/old.onnx")
    assert (tmp_path / "net").read_bytes() == CONTENT


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x?token=secret"])
def test_a_redirect_to_another_scheme_is_not_followed(server, tmp_path, target):
    server.redirects["/old.onnx"] = target
    with pytest.raises(FetchError, match="which is not followed") as caught:
        fetch(server, tmp_path / "net", "/old.onnx")
    assert "secret" not in str(caught.value)


def test_an_endless_redirect(server, tmp_path):
    server.redirects["/old.onnx"] = "/old.onnx"
    with pytest.raises(FetchError, match="again and again"):
        fetch(server, tmp_path / "net", "/old.onnx")


@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254/x", "http://127.0.0.1/x", "http://[::1]/x", "http://10.0.0.1/x"],
)
def test_a_public_server_can_not_redirect_to_a_private_address(
    server, tmp_path, target, monkeypatch
):
    inside = web._is_inside

    async def is_inside(host):
        return host != "files.example" and await inside(host)

    monkeypatch.setattr(web, "_is_inside", is_inside)
    import asyncio

    with pytest.raises(FetchError, match="a private address, which is not followed"):
        asyncio.run(web._check_redirect("http://files.example/x", target))


@pytest.mark.parametrize(
    ("status", "message", "is_wrong"),
    [(404, "404 Not Found", True), (403, "403 Forbidden .credentials", True), (500, "500", False)],
)
def test_a_server_that_refuses(server, tmp_path, status, message, is_wrong):
    server.refusals["/net.onnx"] = status
    with pytest.raises(FetchError, match=message) as caught:
        fetch(server, tmp_path / "net")
    assert caught.value.is_wrong == is_wrong


def test_a_page_instead_of_a_file(server, tmp_path):
    server.types["/net.onnx"] = "text/html; charset=utf-8"
    with pytest.raises(FetchError, match="is a web page"):
        fetch(server, tmp_path / "net")
