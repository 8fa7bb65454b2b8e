"""A server of files on loopback: HTTP, TLS, and as much of S3 and Hugging Face as is asked."""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.certificates import Authority

_HUB = re.compile(r"/api/models/(?P<repo>\w+/\w+)(/revision/\w+|/tree/(?P<revision>\w+))?")


class FileServer(ThreadingHTTPServer):
    """What it answers is in its attributes, which a test may change while it runs.

    Attributes:
        files: contents by path.
        redirects: locations by path.
        refusals: statuses by path.
        types: content types by path.
        breaks: after so many bytes, the next response of a path breaks off.
        asked: method, path, and headers of each request.
        has_etags: whether it names versions.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.refusals: dict[str, int] = {}
        self.types: dict[str, str] = {}
        self.breaks: dict[str, int] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.has_etags = True
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no error."""


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def _answer(self, *, has_body: bool) -> None:
        server, path = self.server, self.path.partition("?")[0]
        server.asked.append((self.command, self.path, dict(self.headers)))
        if (status := server.refusals.get(path)) is not None:
            self._send(status, b"", "text/plain")
        elif location := server.redirects.get(path):
            self.send_response(302)
            self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif found := _HUB.fullmatch(path):
            status, document = self._ask_hub(found["repo"], found["revision"])
            self._send(status, json.dumps(document).encode(), "application/json")
        elif (content := server.files.get(path)) is None:
            self._send(404, b"", "text/plain")
        else:
            self._send_file(path, content, has_body=has_body)

    def _ask_hub(self, repo: str, revision: str | None) -> tuple[int, Any]:
        """What is known of a repository, or the files of one of its revisions."""
        if not any(name.startswith(f"/{repo}/") for name in self.server.files):
            return 404, {}
        if revision is None:
            return 200, {"id": repo, "sha": "0" * 40, "siblings": []}
        start = f"/{repo}/resolve/{revision}/"
        return 200, [
            {
                "type": "file",
                "path": name.removeprefix(start),
                "size": len(content),
                "oid": hashlib.sha1(content).hexdigest(),
            }
            for name, content in self.server.files.items()
            if name.startswith(start)
        ]

    def _send_file(self, path: str, content: bytes, *, has_body: bool) -> None:
        etag = f'"{hashlib.md5(content).hexdigest()}"' if self.server.has_etags else ""
        if etag and self.headers.get("If-None-Match") == etag:
            self._send(304, b"", "")
            return
        status, start = 200, 0
        if (asked := self.headers.get("Range")) and self.headers.get("If-Range") in {None, etag}:
            status, start = 206, int(asked.removeprefix("bytes=").partition("-")[0])
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Content-Type", self.server.types.get(path, "application/octet-stream"))
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()
        if has_body:
            self.wfile.write(content[start : start + self.server.breaks.pop(path, len(content))])

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", kind)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")  # the hub's
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def file_server(authority: Authority | None = None) -> Iterator[FileServer]:
    """Run a server in a thread, with TLS if an authority is given."""
    with FileServer() as server:
        if authority is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*authority.sign("files"))
            server.socket = context.wrap_socket(server.socket, server_side=True)
            server.scheme = "https"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
