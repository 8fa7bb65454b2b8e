"""Where requests begin and end on a connection: uvicorn's protocol, but for what it leaves open.

Runs in the front-end, under every HTTP connection. Bytes flow in, requests that are to be answered
one after another flow out. Whoever asks for another protocol (``Upgrade``) is answered in this one.
It is known which request is being answered while others wait behind it, so that it can be told when
its client has gone, and which was the last to come whole, when what follows is damaged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["FramedConnection"]

#: Headers of a request that has a body.
_BODY = {b"content-length", b"transfer-encoding"}


class FramedConnection(HttpToolsProtocol):
    """One connection.

    Args:
        options: uvicorn's.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        #: The request that is being answered while others are waiting behind it.
        self._first: Any = None
        self._is_framed_again = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is being answered, and the last one, that their client has gone."""
        if self._first is not None:
            self._first.disconnected = True
            self._first.message_event.set()
        super().connection_lost(exc)

    def parse(self, data: bytes) -> None:
        """Parse what came.

        Raises:
            HttpParserError: if it is not HTTP.
        """
        rest: bytes | memoryview = data
        while True:
            try:
                self.parser.feed_data(rest)
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
        head = _head(self.parser.get_method(), self.url, self.headers)
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(head)

    def on_headers_complete(self) -> None:
        """Begin a request, or see to it that it is begun as it is meant."""
        if self.parser.should_upgrade() and any(name in _BODY for name, _ in self.headers):
            if self.parser.get_method() == b"CONNECT":
                raise HttpParserError("a tunnel with a body")
            self._is_framed_again = True
            return
        running = self.cycle
        super().on_headers_complete()
        if self.pipeline and self._first is None:
            self._first = running

    def on_message_complete(self) -> None:
        """Note that a request is there as a whole."""
        cycle = self.cycle
        if not (self._is_framed_again or cycle.response_complete):
            cycle.more_body = False
            cycle.message_event.set()

    def begin_next(self) -> None:
        """Begin to answer the next request, if it is there already."""
        if self.pipeline:
            cycle, application = self.pipeline.pop()
            self._first = cycle if self.pipeline else None
            self._start_asgi_task(cycle, application)

    def last_whole(self) -> Any:
        """The last request that came whole and waits for its answer.

        What came after it is damaged: a request of which only a part is there is given up.

        Returns:
            Its cycle, None if there is none.
        """
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return None
        if cycle.more_body and self.pipeline:  # another is being answered, this one never will be
            self.pipeline.popleft()
            cycle = self.cycle = self.pipeline[0][0] if self.pipeline else self._first
        return None if cycle.more_body or cycle.response_complete else cycle


def _head(method: bytes, url: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of a request as it came, without the wish for another protocol."""
    lines = [b"%b %b HTTP/1.1" % (method, url)]
    lines += [b"%b: %b" % header for header in headers if header[0] != b"upgrade"]
    return b"\r\n".join([*lines, b"\r\n"])
