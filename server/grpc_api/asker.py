"""What the metadata of a call says: by what id the client knows it, within which trace.

Runs in the front-end, under the gRPC API. A call's context flows in; trailing metadata or fields of
the log flow out.
"""

from __future__ import annotations

from typing import Any

from server.grpc_api.codec import Asked
from server.inference.request_ids import HEADER, acceptable

__all__ = ["about", "carrier", "echo"]

_TRACE = ("traceparent", "tracestate")


def echo(context: Any) -> None:
    """Let the call end with the id that it came with, if it has one."""
    for name, value in context.invocation_metadata():
        if name == HEADER and acceptable(value):
            context.set_trailing_metadata(((HEADER, value),))


def carrier(context: Any) -> dict[str, str]:
    """The trace that the call is part of, as it came."""
    return {name: value for name, value in context.invocation_metadata() if name in _TRACE}


def about(asked: Asked, context: Any, trace_id: str = "") -> dict[str, str]:
    """What the log says of an infer request."""
    given = next((value for name, value in context.invocation_metadata() if name == HEADER), "")
    return {
        "protocol": "grpc",
        "model": asked.head.model,
        "client": context.peer(),
        "request_id": acceptable(given, asked.id),
        "trace_id": trace_id,
    }
