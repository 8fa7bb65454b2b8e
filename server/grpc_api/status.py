"""How a call ends that has no answer: an error becomes a status, a text and trailing metadata.

Runs in the front-end, under the gRPC API.
"""

from __future__ import annotations

import logging

import grpc

from server.errors import InternalFault, QueueFull, RequestError, Unavailable
from server.grpc_api.core import Call, Metadata
from server.inference.access_log import REQUEST_ID_HEADER, new_request_id

__all__ = ["fail", "text_of"]

_log = logging.getLogger(__name__)

#: What of a text goes into the trailing metadata, which clients limit to some kilobytes.
_MAX_TEXT_BYTES = 2000


def fail(call: Call, error: Exception) -> None:
    """End a call with an error."""
    code, text, trailing = _told(error)
    if trailing:
        call.trailing = tuple(dict((*call.trailing, *trailing)).items())
    call.end(code, text)


def text_of(error: Exception) -> str:
    """What the client is told of an error."""
    return _told(error)[1]


def _told(error: Exception) -> tuple[int, str, Metadata]:
    """Status, text and trailing metadata of an error; one that we don't know goes to the log."""
    if not isinstance(error, RequestError):
        told = InternalFault(new_request_id())
        _log.error("a call failed", exc_info=error, extra={"request_id": told.request_id})
        error.__traceback__ = None
        return _told(told)
    # What the error has passed through holds the request, which often holds the error: let go of
    # the tensors now, not when the garbage is collected.
    error.__traceback__ = None
    text = error.message.encode()[:_MAX_TEXT_BYTES].decode(errors="ignore")
    trailing: Metadata = ()
    if isinstance(error, QueueFull | Unavailable):
        trailing = (("retry-after", str(max(1, round(error.retry_after_s)))),)
    if isinstance(error, InternalFault):
        trailing = ((REQUEST_ID_HEADER, error.request_id),)
    return grpc.StatusCode[error.grpc_status].value[0], text, trailing
