"""The metadata of calls, and the status with which a failed call ends.

Runs in the front-end, under the gRPC API. A call's metadata flows in (request id, trace context),
fields for the log flow out; an error becomes a status code, a text and trailing metadata.
"""

from __future__ import annotations

import logging

import grpc

from server.errors import InternalFault, QueueFull, RequestError, Unavailable
from server.grpc_api.core import Metadata, ServerCall
from server.inference.access_log import REQUEST_ID_HEADER, new_request_id, valid_request_id
from workers.runtime.texts import abridge

__all__ = [
    "echoed_request_id",
    "error_text",
    "fail",
    "log_fields",
    "metadata_value",
    "trace_context",
]

_log = logging.getLogger(__name__)

_TRACE = ("traceparent", "tracestate")
#: Of a text in trailing metadata, which clients limit to some kilobytes.
_MAX_TEXT_BYTES = 2000


def echoed_request_id(metadata: Metadata) -> Metadata:
    """The trailing metadata that echoes a call's request id, if it has a valid one."""
    for name, value in metadata:
        if name == REQUEST_ID_HEADER and valid_request_id(value):
            return ((REQUEST_ID_HEADER, value),)
    return ()


def metadata_value(metadata: Metadata, wanted: str) -> str:
    """The first value of a key of a call's metadata; empty if it is absent."""
    return next((value for name, value in metadata if name == wanted), "")


def trace_context(metadata: Metadata) -> dict[str, str]:
    """The W3C trace context of a call."""
    return {name: value for name, value in metadata if name in _TRACE}


def log_fields(call: ServerCall, model: str, request_id: str, trace_id: str = "") -> dict[str, str]:
    """The fields of an infer request's log records."""
    from_metadata = metadata_value(call.metadata, REQUEST_ID_HEADER)
    return {
        "protocol": "grpc",
        "model": model,
        "client": call.peer(),
        "request_id": valid_request_id(from_metadata, request_id),
        "trace_id": trace_id,
    }


def fail(call: ServerCall, error: Exception) -> None:
    """End a call with the status of an error."""
    error = _request_error(error)
    trailing: Metadata = ()
    if isinstance(error, QueueFull | Unavailable):
        trailing = (("retry-after", str(max(1, round(error.retry_after_s)))),)
    if isinstance(error, InternalFault):
        trailing = ((REQUEST_ID_HEADER, error.request_id),)
    if trailing:
        call.trailing = tuple(dict((*call.trailing, *trailing)).items())
    call.end(grpc.StatusCode[error.grpc_status].value[0], _text(error))


def error_text(error: Exception) -> str:
    """The text of an error for the client."""
    return _text(_request_error(error))


def _request_error(error: Exception) -> RequestError:
    """The error for the client; an unexpected exception is logged."""
    # The traceback's frames hold the request, which often holds the error: free the tensors now,
    # not when the garbage is collected.
    if isinstance(error, RequestError):
        error.__traceback__ = None
        return error
    fault = InternalFault(new_request_id())
    _log.error("a call failed", exc_info=error, extra={"request_id": fault.request_id})
    error.__traceback__ = None
    return fault


def _text(error: RequestError) -> str:
    return abridge(error.message, _MAX_TEXT_BYTES)
