"""Parses the requests on one connection with httptools, and closes the gaps that it leaves.

Runs in the front-end. A request for another protocol (``Upgrade``) is treated as one in this.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

import httptools
from httptools import HttpParserError, HttpParserUpgrade

__all__ = ["RequestHead", "RequestParser"]


class RequestHead:
    """The head of a request; method and URL as they came, names of headers in lower case.

    `path` is without escapes; `query` is as it came, without the question mark.
    """

    __slots__ = ("headers", "http_version", "keep_alive", "method", "path", "query", "url")

    def __init__(
        self,
        method: bytes,
        url: bytes,
        headers: list[tuple[bytes, bytes]],
        http_version: str,
        keep_alive: bool,
    ) -> None:
        self.method = method
        self.url = url
        self.headers = headers
        self.http_version = http_version
        self.keep_alive = keep_alive
        parsed = httptools.parse_url(url)
        path = parsed.path.decode("ascii")
        self.path: str = unquote(path) if "%" in path else path
        self.query: bytes = parsed.query or b""

    def problem(self) -> tuple[int, str] | None:
        """The status and the reason of a refusal, None for what HTTP allows and is supported."""
        hosts = [name for name, _ in self.headers].count(b"host")
        if hosts > 1 or (hosts == 0 and self.http_version == "1.1"):
            return 400, f"the request has {hosts} Host headers, it needs one"
        for name, value in self.headers:
            if name == b"transfer-encoding" and value.lower() != b"chunked":
                coding = value.decode("latin-1")
                return 501, f"Transfer-Encoding {coding!r} is not supported, only chunked is"
        return None

    @property
    def size_bytes(self) -> int:
        """About how many bytes it takes on the wire."""
        framing = 4 * len(self.headers)
        texts = sum(len(name) + len(value) for name, value in self.headers)
        return len(self.url) + texts + framing


class RequestParser:
    """Parses what one client sends; `on_head` may raise `HttpParserError`."""

    def __init__(
        self,
        *,
        on_begin: Callable[[], None],
        on_head: Callable[[RequestHead], None],
        on_body: Callable[[bytes], None],
        on_end: Callable[[], None],
    ) -> None:
        self._on_begin = on_begin
        self._on_head = on_head
        self.on_body = on_body  # httptools looks it up by this name
        self._on_end = on_end
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._is_reparsed = False
        self._parser = self._make_parser()

    def _make_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # What a client sends after its last request is not read, but is no error.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def close(self) -> None:
        """Parse nothing more, and drop the references that make a cycle with the connection."""
        vars(self).clear()

    def skip_body(self) -> None:
        """The rest of the body bypasses this parser: start over after it."""
        self._parser = self._make_parser()

    def feed(self, data: bytes) -> None:
        """Parse what was received; `HttpParserError` if it is not HTTP."""
        rest: bytes | memoryview = data
        while True:
            try:
                self._parser.feed_data(rest)
                return
            except HttpParserUpgrade as upgrade:
                rest = memoryview(rest)[upgrade.args[0] :]
                if self._is_reparsed:
                    self._reparse_head()

    def _reparse_head(self) -> None:
        """Parse the head again without ``Upgrade``, or its body is taken for another protocol."""
        self._is_reparsed = False
        lines = [b"%b %b HTTP/1.1" % (self._parser.get_method(), self._url)]
        lines += [b"%b: %b" % header for header in self._headers if header[0] != b"upgrade"]
        self._parser = self._make_parser()
        self._parser.feed_data(b"\r\n".join([*lines, b"\r\n"]))

    # -- what httptools calls -----------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self._url = b""
        self._headers = []
        self._on_begin()

    def on_url(self, url: bytes) -> None:
        """Part of its URL."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its headers."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Its head is complete."""
        parser = self._parser
        method = parser.get_method()
        if parser.should_upgrade() and any(
            name in (b"content-length", b"transfer-encoding") for name, _ in self._headers
        ):
            if method == b"CONNECT":
                raise HttpParserError("a tunnel with a body")
            self._is_reparsed = True
            return
        version = parser.get_http_version()
        keep_alive = version != "1.0" and parser.should_keep_alive()
        self._on_head(RequestHead(method, self._url, self._headers, version, keep_alive))

    def on_message_complete(self) -> None:
        """It is complete."""
        if not self._is_reparsed:
            self._on_end()
