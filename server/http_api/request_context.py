"""What the head of a request says about its sender: credentials, id, and the trace it is part of.

Runs in the front-end, under the HTTP API; pure.
"""

from __future__ import annotations

import asyncio
from urllib.parse import unquote

from starlette.types import Message, Scope, Send

from server.errors import Unauthenticated
from server.inference.access_log import REQUEST_ID_HEADER, valid_request_id
from server.inference.endpoint import Endpoint

__all__ = ["CERTIFICATE_NAME", "REQUEST_ID", "RequestContext", "certificate_name"]

REQUEST_ID = REQUEST_ID_HEADER.encode()
#: The key in the scope's state under which the connection keeps its client's certificate name.
CERTIFICATE_NAME = "certificate_name"
_TRACE = (b"traceparent", b"tracestate")


class RequestContext:
    """One request; `protocol_id` (the id in its body) and `trace_id` are set later, if known.

    So is the `endpoint` that an infer request goes to.
    """

    endpoint: Endpoint

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self.protocol_id = ""
        self.trace_id = ""

    @property
    def request_id(self) -> str:
        """What the client calls its request; empty if it has no name."""
        header = b""
        for name, value in self._scope["headers"]:
            if name == REQUEST_ID:
                header = value
                break
        return valid_request_id(header.decode("latin-1"), self.protocol_id)

    @property
    def authorization(self) -> str | None:
        """The credentials presented; `Unauthenticated` if there is more than one header."""
        values = [value for name, value in self._scope["headers"] if name == b"authorization"]
        if len(values) > 1:
            raise Unauthenticated("there is more than one Authorization header")
        return values[0].decode("latin-1") if values else None

    @property
    def certificate_name(self) -> str:
        """The name in the client's certificate, if it has presented one."""
        name: str = self._scope["state"].get(CERTIFICATE_NAME, "")
        return name

    @property
    def address(self) -> str:
        """The client's IP address, if it is known."""
        client = self._scope.get("client")
        return client[0] if client else ""

    def header(self, wanted: str) -> str:
        """The first value of a header, by its name in lower case; empty if it is absent."""
        for name, value in self._scope["headers"]:
            if name == wanted.encode():
                text: str = value.decode("latin-1")
                return text
        return ""

    def with_request_id(self, send: Send) -> Send:
        """A `send` that adds the request's id to the response's headers, if it has one."""
        if not (request_id := self.request_id):
            return send

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                others = [header for header in message["headers"] if header[0] != REQUEST_ID]
                message["headers"] = [*others, (REQUEST_ID, request_id.encode())]
            await send(message)

        return send_with_id

    def trace_headers(self) -> dict[str, str]:
        """The headers that name the trace which the request is part of."""
        headers = self._scope["headers"]
        return {name.decode(): value.decode("latin-1") for name, value in headers if name in _TRACE}

    def log_fields(self) -> dict[str, str]:
        """The fields of the log lines about an infer request."""
        client = self._scope.get("client")
        return {
            "protocol": "http",
            "model": unquote(self._scope["path"].split("/")[3]),
            "client": f"{client[0]}:{client[1]}" if client else "",
            "request_id": self.request_id,
            "trace_id": self.trace_id,
        }


def certificate_name(transport: asyncio.Transport) -> str:
    """The common name in a client's certificate, else its first alternative name, "" for none."""
    certificate = transport.get_extra_info("peercert") or {}
    for part in certificate.get("subject", ()):
        for field, value in part:
            if field == "commonName":
                return str(value)
    for _, value in certificate.get("subjectAltName", ()):
        return str(value)
    return ""
