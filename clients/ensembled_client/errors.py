"""The errors of this client, the same over HTTP and gRPC; in the caller's process.

EnsembledClientError
+-- RequestRejected      the request is wrong: found here, or by the server   4xx INVALID_ARGUMENT
|   +-- RequestTooLarge  it has more bytes than the server takes              413 RESOURCE_EXHAUSTED
+-- UnknownModel         the server has no such ensemble or member            404 NOT_FOUND
+-- Overloaded           too many requests wait; try again later              429 RESOURCE_EXHAUSTED
+-- Unavailable          not reachable, starting, draining, no quorum         503 UNAVAILABLE
+-- DeadlineExceeded     time was up before a quorum of members had answered  504 DEADLINE_EXCEEDED
+-- ServerFailure        a member or the server failed, or it answers badly   500 INTERNAL
"""

from __future__ import annotations

import math

__all__ = [
    "DeadlineExceeded",
    "EnsembledClientError",
    "Overloaded",
    "RequestRejected",
    "RequestTooLarge",
    "ServerFailure",
    "Unavailable",
    "UnknownModel",
    "error_for_status",
    "parse_retry_after",
]


class EnsembledClientError(Exception):
    """The base class of all errors of this client.

    Attributes:
        message: what went wrong, in the server's words if it answered.
        status: the HTTP status of the server's answer, over gRPC the one that corresponds to its
            code; None without an answer.
        safe_to_retry: whether the server is certainly not at work on the request, and another try
            may succeed.
        retry_after: how many seconds the server asks to wait before that, None if it does not
            say.
    """

    def __init__(
        self,
        message: str,
        status: int | None = None,
        *,
        safe_to_retry: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.safe_to_retry = safe_to_retry
        self.retry_after = retry_after


class RequestRejected(EnsembledClientError):
    """The request is malformed, or its tensors don't fit the model."""


class RequestTooLarge(RequestRejected):
    """The request, or a single row of it, has more bytes than the server takes."""


class UnknownModel(EnsembledClientError):
    """The server has neither an ensemble nor a member of that name."""


class Overloaded(EnsembledClientError):
    """Too many requests are waiting; see `retry_after`."""


class Unavailable(EnsembledClientError):
    """The server can't be reached, is starting or draining, or no quorum of members is up."""


class DeadlineExceeded(EnsembledClientError):
    """The timeout passed before a quorum of members had answered."""


class ServerFailure(EnsembledClientError):
    """A member failed on this input, the server failed, or its answer can't be understood."""


_BY_STATUS: dict[int, type[EnsembledClientError]] = {
    404: UnknownModel,
    413: RequestTooLarge,
    429: Overloaded,
    503: Unavailable,
    504: DeadlineExceeded,
}
_TRY_LATER = {429, 503}


def error_for_status(
    status: int, message: str, retry_after: float | None = None
) -> EnsembledClientError:
    """Return the error for an HTTP status that is not 2xx."""
    fallback = RequestRejected if 400 <= status < 500 else ServerFailure
    return _BY_STATUS.get(status, fallback)(
        message, status, safe_to_retry=status in _TRY_LATER, retry_after=retry_after
    )


def parse_retry_after(text: str | bytes | None) -> float | None:
    """Return the seconds of a Retry-After header; None if it is missing, or a date."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None
