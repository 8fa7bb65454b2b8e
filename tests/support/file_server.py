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
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from tests.support.certificates import Authority

_HUB = re.compile(
    r"/api/models/(?P<repo>\w+/\w+)((/revision|(?P<tree>/tree))/(?P<revision>\w+)/?(?P<path>.*))?"
)
_RESOLVED = re.compile(r"/(?P<repo>\w+/\w+)/resolve/(?P<revision>\w+)/(?P<file>.*)")


class FileServer(ThreadingHTTPServer):
    """What it answers is in its attributes, which a test may change while it runs.

    Attributes:
        files: contents by path.
        listed: contents by path that listings of S3 name instead.
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
        self.listed: dict[str, bytes] = {}
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
        server, (path, _, query) = self.server, self.path.partition("?")
        path = self._with_name_of_revision(path)
        server.asked.append((self.command, self.path, dict(self.headers)))
        if (status := server.refusals.get(path)) is not None:
            self._send(status, b"", "text/plain")
        elif location := server.redirects.get(path):
            self.send_response(302)
            self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif found := _HUB.fullmatch(path):
            status, document = self._ask_hub(**found.groupdict())
            self._send(status, json.dumps(document).encode(), "application/json")
        elif "list-type=2" in query:
            self._send(200, self._bucket(path.rstrip("/"), parse_qs(query)), "application/xml")
        elif (content := server.files.get(path)) is None:
            self._send(404, b"", "text/plain")
        else:
            self._send_file(path, content, has_body=has_body)

    def _with_name_of_revision(self, path: str) -> str:
        """A path of a hub's file, with the name of the revision in place of its commit."""
        if found := _RESOLVED.fullmatch(path):
            names = {
                commit_of(files): name for name, files in self._revisions(found["repo"]).items()
            }
            name = names.get(found["revision"], found["revision"])
            return f"/{found['repo']}/resolve/{name}/{found['file']}"
        return path

    def _revisions(self, repo: str) -> dict[str, dict[str, bytes]]:
        """The files of a hub's repository by the names of its revisions."""
        revisions: dict[str, dict[str, bytes]] = {}
        for name, content in self.server.files.items():
            if (found := _RESOLVED.fullmatch(name)) and found["repo"] == repo:
                revisions.setdefault(found["revision"], {})[found["file"]] = content
        return revisions

    def _ask_hub(
        self, repo: str, tree: str | None, revision: str | None, path: str | None
    ) -> tuple[int, Any]:
        """What is known of a revision of a repository, or the files below a path in it."""
        revisions = self._revisions(repo)
        commits = {commit_of(files): files for files in revisions.values()}
        files = (revisions | commits).get(revision or "main", {})
        if not tree:
            known = {"id": repo, "sha": commit_of(files), "siblings": []}
            return (200, known) if files else (404, {})
        files = {name: one for name, one in files.items() if not path or f"{path}/" in name}
        if not files:
            return 404, {}
        return 200, [
            {
                "type": "file",
                "path": name,
                "size": len(content),
                "oid": hashlib.sha1(content).hexdigest(),
            }
            for name, content in files.items()
        ]

    def _bucket(self, bucket: str, query: dict[str, list[str]]) -> bytes:
        """The listing of a bucket of S3."""
        listed = self.server.files | self.server.listed
        keys = {name.removeprefix(f"{bucket}/"): one for name, one in listed.items()}
        (prefix,) = query.get("prefix", [""])
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size>"
            f"<ETag>{_etag(content)}</ETag><StorageClass>STANDARD</StorageClass></Contents>"
            for key, content in sorted(keys.items())
            if key.startswith(prefix)
        )
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        text = f'<ListBucketResult xmlns="{space}"><IsTruncated>false</IsTruncated>{entries}'
        return f"{text}</ListBucketResult>".encode()

    def _send_file(self, path: str, content: bytes, *, has_body: bool) -> None:
        etag = _etag(content) if self.server.has_etags else ""
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
            kind = "EntryNotFound" if "/tree/" in self.path else "RepoNotFound"
            self.send_header("X-Error-Code", kind)  # the hub's
        self.end_headers()
        self.wfile.write(body)


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def commit_of(files: dict[str, bytes]) -> str:
    """Return the commit of a revision with these files."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


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
