"""How a call ends that has no answer: an error becomes a status, a text and trailing metadata.

Runs in the front-end, under the gRPC API.
"""

from __future__ import annotations

import logging
from typing import Any

import grpc

from server.errors import InternalFault, QueueFull, RequestError, Unavailable
from server.inference.request_ids import HEADER, new_id

__all__ = ["end", "fail", "text_of"]

_log = logging.getLogger(__name__)

#: What of a text goes into the trailing metadata, which clients limit to some kilobytes.
_MAX_TEXT_BYTES = 2000


def fail(context: Any, error: Exception) -> None:
    """Let the call end with an error when its method returns."""
    end(context, *_told(error))


def text_of(error: Exception) -> str:
    """What the client is told of an error."""
    return _told(error)[1]


def _told(error: Exception) -> tuple[Any, str, tuple[tuple[str, str], ...]]:
    """Status, text and trailing metadata of an error; one that we don't know goes to the log."""
    if not isinstance(error, RequestError):
        told = InternalFault(new_id())
        _log.error("a call failed", exc_info=error, extra={"request_id": told.request_id})
        error.__traceback__ = None
        return _told(told)
    # What the error has passed through holds the request, which often holds the error: let go of
    # the tensors now, not when the garbage is collected.
    error.__traceback__ = None
    text = error.message.encode()[:_MAX_TEXT_BYTES].decode(errors="ignore")
    trailing: tuple[tuple[str, str], ...] = ()
    if isinstance(error, QueueFull | Unavailable):
        trailing = (("retry-after", str(max(1, round(error.retry_after_s)))),)
    if isinstance(error, InternalFault):
        trailing = ((HEADER, error.request_id),)
    return grpc.StatusCode[error.grpc_status], text, trailing


def end(context: Any, status: Any, text: str, trailing: tuple[tuple[str, str], ...] = ()) -> None:
    """Let the call end with a status when its method returns.

    `context.abort` does it at once by raising an exception, whose traceback then keeps the message
    alive in a cycle.
    """
    context.set_code(status)
    context.set_details(text)
    if trailing:
        context.set_trailing_metadata(
            tuple(dict((*context.trailing_metadata(), *trailing)).items())
        )
