"""Everything that this client raises.

EnsembledClientError
+-- RequestRejected     the request is wrong: found here, or by the server    4xx
+-- UnknownModel        the server has no such ensemble or member             404
+-- Overloaded          too many requests wait; try again later               429
+-- Unavailable         not reachable, starting, draining, no quorum          503
+-- DeadlineExceeded    time was up before a quorum of members had answered   504
+-- ServerFailure       a member or the server failed, or it answers nonsense 500
"""

from __future__ import annotations

__all__ = [
    "DeadlineExceeded",
    "EnsembledClientError",
    "Overloaded",
    "RequestRejected",
    "ServerFailure",
    "Unavailable",
    "UnknownModel",
    "error_for_status",
]


class EnsembledClientError(Exception):
    """The root of the tree.

    Attributes:
        message: what went wrong, in the server's words if it answered.
        status: the HTTP status of the server's answer, None if there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class RequestRejected(EnsembledClientError):
    """The request is malformed, too large, or its tensors don't fit the model."""


class UnknownModel(EnsembledClientError):
    """The server has neither an ensemble nor a member of that name."""


class Overloaded(EnsembledClientError):
    """Too many requests are waiting.

    Attributes:
        retry_after: how many seconds the server asks to wait, None if it does not say.
    """

    def __init__(
        self, message: str, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, status)
        self.retry_after = retry_after


class Unavailable(EnsembledClientError):
    """The server can't be reached, is starting or draining, or no quorum of members is up."""


class DeadlineExceeded(EnsembledClientError):
    """The timeout passed before a quorum of members had answered."""


class ServerFailure(EnsembledClientError):
    """A member failed on this input, the server failed, or its answer can't be understood."""


_BY_STATUS: dict[int, type[EnsembledClientError]] = {
    404: UnknownModel,
    503: Unavailable,
    504: DeadlineExceeded,
}


def error_for_status(
    status: int, message: str, retry_after: float | None = None
) -> EnsembledClientError:
    """Return the error that an HTTP status stands for.

    Args:
        status: not 2xx.
        message: the server's text.
        retry_after: seconds, from the response's header.
    """
    if status == 429:
        return Overloaded(message, status, retry_after)
    fallback = RequestRejected if 400 <= status < 500 else ServerFailure
    return _BY_STATUS.get(status, fallback)(message, status)
