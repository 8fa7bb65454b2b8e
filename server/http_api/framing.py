"""Where requests begin and end in what a client sends: httptools, and what it leaves open.

Runs in the front-end, under every HTTP connection. Bytes flow in, heads and bodies flow out.
Whoever asks for another protocol (``Upgrade``) is answered in this one.
"""

from __future__ import annotations

from typing import Protocol
from urllib.parse import unquote

import httptools
from httptools import HttpParserError, HttpParserUpgrade

__all__ = ["Head", "Receiver", "RequestParser"]


class Head:
    """The head of a request.

    Attributes:
        method: as it came, such as ``POST``.
        url: as it came.
        headers: names in lower case, and values.
        http_version: ``1.0`` or ``1.1``.
        keep_alive: whether the connection is to stay.
        path: without escapes.
        query: as it came, without the question mark.
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

    @property
    def size(self) -> int:
        """About how many bytes it takes on the wire."""
        framing = 4 * len(self.headers)
        texts = sum(len(name) + len(value) for name, value in self.headers)
        return len(self.url) + texts + framing


class Receiver(Protocol):
    """Gets what was parsed."""

    def begin_message(self) -> None:
        """A request begins."""
        ...

    def take_head(self, head: Head) -> None:
        """Its head is there.

        Raises:
            HttpParserError: if that is too much.
        """
        ...

    def take_body(self, data: bytes) -> None:
        """Some of its body is there."""
        ...

    def end_message(self) -> None:
        """It is there as a whole."""
        ...


class RequestParser:
    """Parses what one client sends.

    Args:
        receiver: gets what comes of it.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._is_framed_again = False
        self.on_body = receiver.take_body
        self._parser = self._make()

    def _make(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # A client may send on behind its last request: that is not read, but no damage to it.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def close(self) -> None:
        """Parse nothing more, and let go of the receiver, which has this parser."""
        vars(self).clear()

    def skip_body(self) -> None:
        """What is left of the body will come past this parser: begin anew behind it."""
        self._parser = self._make()

    def feed(self, data: bytes) -> None:
        """Parse what came.

        Raises:
            HttpParserError: if it is not HTTP.
        """
        rest: bytes | memoryview = data
        while True:
            try:
                self._parser.feed_data(rest)
                return
            except HttpParserUpgrade as upgrade:
                rest = memoryview(rest)[upgrade.args[0] :]
                if self._is_framed_again:
                    self._frame_again()

    def _frame_again(self) -> None:
        """Begin the request anew that has just begun, as if it had asked for no other protocol.

        After a request that does, the parser takes a body for what the other protocol says.
        """
        self._is_framed_again = False
        lines = [b"%b %b HTTP/1.1" % (self._parser.get_method(), self._url)]
        lines += [b"%b: %b" % header for header in self._headers if header[0] != b"upgrade"]
        self._parser = self._make()
        self._parser.feed_data(b"\r\n".join([*lines, b"\r\n"]))

    # -- what httptools calls -------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self._url = b""
        self._headers = []
        self._receiver.begin_message()

    def on_url(self, url: bytes) -> None:
        """Part of its URL."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its headers."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Its head is there; one that asks for another protocol is begun as it is meant."""
        parser = self._parser
        method = parser.get_method()
        if parser.should_upgrade() and any(
            name in (b"content-length", b"transfer-encoding") for name, _ in self._headers
        ):
            if method == b"CONNECT":
                raise HttpParserError("a tunnel with a body")
            self._is_framed_again = True
            return
        version = parser.get_http_version()
        keep_alive = version != "1.0" and parser.should_keep_alive()
        self._receiver.take_head(Head(method, self._url, self._headers, version, keep_alive))

    def on_message_complete(self) -> None:
        """It is there as a whole."""
        if not self._is_framed_again:
            self._receiver.end_message()
