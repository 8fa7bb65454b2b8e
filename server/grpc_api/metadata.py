"""What the metadata of a call says: by what id the client knows it, within which trace.

Runs in the front-end, under the gRPC API. Metadata flows in; trailing metadata or fields of the
log flow out.
"""

from __future__ import annotations

from server.grpc_api.core import Call, Metadata
from server.inference.access_log import REQUEST_ID_HEADER, valid_request_id

__all__ = ["about", "echoed", "trace_context"]

_TRACE = ("traceparent", "tracestate")


def echoed(metadata: Metadata) -> Metadata:
    """The id that a call came with, if it has one, to end it with."""
    for name, value in metadata:
        if name == REQUEST_ID_HEADER and valid_request_id(value):
            return ((REQUEST_ID_HEADER, value),)
    return ()


def trace_context(metadata: Metadata) -> dict[str, str]:
    """The trace that a call is part of, as it came."""
    return {name: value for name, value in metadata if name in _TRACE}


def about(call: Call, model: str, request_id: str, trace_id: str = "") -> dict[str, str]:
    """What the log says of an infer request."""
    given = next((value for name, value in call.metadata if name == REQUEST_ID_HEADER), "")
    return {
        "protocol": "grpc",
        "model": model,
        "client": call.peer(),
        "request_id": valid_request_id(given, request_id),
        "trace_id": trace_id,
    }
