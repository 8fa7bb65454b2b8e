"""What the head of a request says beside the protocol: who asks, by what id, within which trace.

Runs in the front-end, under the HTTP API; pure. The ASGI scope flows in, and headers of the answer
or fields of the log flow out. `scope["id"]` is the protocol's own id, where that was read.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any
from urllib.parse import unquote

from server.http_api.answers import Header, Scope, Send
from server.inference.access_log import REQUEST_ID_HEADER, valid_request_id

__all__ = ["HEADER", "about", "carrier", "echo", "echoing", "request_id"]

HEADER = REQUEST_ID_HEADER.encode()
_TRACE = (b"traceparent", b"tracestate")


def request_id(scope: Scope) -> str:
    """What the client calls its request; empty if it has no name."""
    return valid_request_id(_header(scope, HEADER), scope.get("id", ""))


def echo(request_id: str) -> Header:
    """The header of an answer that names its request."""
    return HEADER, request_id.encode()


def echoing(scope: Scope, send: Send) -> Send:
    """Sends an answer with the id of its request, if that has one."""
    if not (named := request_id(scope)):
        return send

    async def send_named(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            others = [header for header in message["headers"] if header[0] != HEADER]
            message["headers"] = [*others, echo(named)]
        await send(message)

    return send_named


def carrier(scope: Scope) -> dict[str, str]:
    """The trace that the request is part of, as it came."""
    return {
        name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _TRACE
    }


def about(scope: Scope) -> dict[str, str]:
    """What the log says of an infer request."""
    client = scope.get("client")
    return {
        "protocol": "http",
        "model": unquote(scope["path"].split("/")[3]),
        "client": f"{client[0]}:{client[1]}" if client else "",
        "request_id": request_id(scope),
        "trace_id": scope.get("trace_id", ""),
    }


def _header(scope: Scope, wanted: bytes) -> str:
    for name, value in scope["headers"]:
        if name == wanted:
            return str(value.decode("latin-1"))
    return ""
