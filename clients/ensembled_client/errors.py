"""Everything that this client raises; the same over HTTP and gRPC. Runs in the caller's process.

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
]


class EnsembledClientError(Exception):
    """The root of the tree.

    Attributes:
        message: what went wrong, in the server's words if it answered.
        status: of the server's answer, None if there was none. It is an HTTP status; what a gRPC
            server answers is told by the status that HTTP has for it.
        safe_to_retry: whether it is certain that the server is not at work on the request, and it
            may go well at another try.
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
_NOT_NOW = {429, 503}


def error_for_status(
    status: int, message: str, retry_after: float | None = None
) -> EnsembledClientError:
    """Return the error that a status stands for.

    Args:
        status: of HTTP, not 2xx.
        message: the server's text.
        retry_after: seconds, as the server asks for.
    """
    fallback = RequestRejected if 400 <= status < 500 else ServerFailure
    return _BY_STATUS.get(status, fallback)(
        message, status, safe_to_retry=status in _NOT_NOW, retry_after=retry_after
    )
