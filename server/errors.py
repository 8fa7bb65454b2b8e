"""The one tree of typed errors, used in the front-end, the supervisor and the command line.

Each error says how every protocol reports it; they are raised where the problem is found and
turned into an HTTP response, a gRPC status or an exit code at the edge. They never cross a
process boundary as objects: workers and the combiner report failures as data.

    EnsembledError
      +-- ConfigError                what the user wrote is wrong           exit 2
      +-- StartError                 the server could not start or run      exit 1
      +-- RequestError               one request failed               HTTP  gRPC
            +-- InvalidRequest       malformed; wrong name or shape   400   INVALID_ARGUMENT
            +-- Unauthenticated      no API key, or none of ours      401   UNAUTHENTICATED
            +-- Forbidden            the key is not for this          403   PERMISSION_DENIED
            +-- UnknownModel         no such ensemble or member       404   NOT_FOUND
            +-- RequestTimeout       the body came too slowly         408   DEADLINE_EXCEEDED
            +-- RequestTooLarge      body over the limit              413   RESOURCE_EXHAUSTED
            +-- UnsupportedMediaType unknown content encoding         415   INVALID_ARGUMENT
            +-- QueueFull            too much is waiting already      429   RESOURCE_EXHAUSTED
            +-- MemberFailed         no quorum without this member    500   INTERNAL
            +-- InternalFault        a fault of the server's own      500   INTERNAL
            +-- Unavailable          starting, draining, no quorum    503   UNAVAILABLE
            |     +-- ClientGone     nobody is there to read it
            +-- DeadlineExceeded     time is up without a quorum      504   DEADLINE_EXCEEDED
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

__all__ = [
    "ClientGone",
    "ConfigError",
    "DeadlineExceeded",
    "EnsembledError",
    "Forbidden",
    "InternalFault",
    "InvalidRequest",
    "MemberFailed",
    "QueueFull",
    "QueueReason",
    "RequestError",
    "RequestTimeout",
    "RequestTooLarge",
    "StartError",
    "Unauthenticated",
    "Unavailable",
    "UnknownModel",
    "UnsupportedMediaType",
]

#: What there may be too much of: requests or rows that wait for the arena, work that would take
#: too long, or longer than the request has, bodies, requests of one client, calls.
QueueReason = Literal["waiting", "time", "deadline", "memory", "client", "calls"]


class EnsembledError(Exception):
    """The root of the tree.

    Attributes:
        http_status: the status code of an HTTP response.
        grpc_status: the name of a `grpc.StatusCode`.
        exit_code: what the command line exits with.
        message: what the user reads.
    """

    http_status: int = 500
    grpc_status: str = "INTERNAL"
    exit_code: int = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigError(EnsembledError):
    """What the user wrote (a configuration, an argument) is wrong.

    Attributes:
        problems: one line per problem, each naming the place and the fix.
    """

    exit_code = 2

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class StartError(EnsembledError):
    """The server could not start, or failed while running."""


class RequestError(EnsembledError):
    """One request could not be answered.

    Attributes:
        outcome: what became of the request, a word for metrics.
        reason: why it was refused, a word for metrics, if that was because of the server's state
            or limits; else empty.
    """

    outcome: str = "internal"
    reason: str = ""


class InvalidRequest(RequestError):
    """The request is malformed, or a tensor has the wrong name, shape, datatype or size."""

    http_status = 400
    grpc_status = "INVALID_ARGUMENT"
    outcome = "invalid"


class Unauthenticated(RequestError):
    """The request needs an API key, and has none or one that is not known."""

    http_status = 401
    grpc_status = "UNAUTHENTICATED"
    outcome = reason = "unauthenticated"


class Forbidden(RequestError):
    """The request's API key is known, but not for what it asks."""

    http_status = 403
    grpc_status = "PERMISSION_DENIED"
    outcome = reason = "forbidden"


class UnknownModel(RequestError):
    """The request names neither an ensemble nor a member.

    Attributes:
        model: the name that was asked for.
    """

    http_status = 404
    grpc_status = "NOT_FOUND"
    outcome = "unknown_model"

    def __init__(self, model: str, version: str = "") -> None:
        asked = f"{model!r} version {repr(version)[1:-1]}" if version else repr(model)
        super().__init__(f"Request for unknown model: {asked} is not found")
        self.model = model


class RequestTimeout(RequestError):
    """The client took too long to send its request."""

    http_status = 408
    grpc_status = "DEADLINE_EXCEEDED"
    outcome = reason = "body_timeout"


class RequestTooLarge(RequestError):
    """The body is over the limit, or its images would be when they are decoded."""

    http_status = 413
    grpc_status = "RESOURCE_EXHAUSTED"
    outcome = reason = "too_large"


class UnsupportedMediaType(RequestError):
    """The body has an encoding that the server does not read."""

    http_status = 415
    grpc_status = "INVALID_ARGUMENT"
    outcome = "invalid"


class QueueFull(RequestError):
    """There is too much to do already: the request was refused before anything was done for it.

    The gRPC status is not UNAVAILABLE, which clients retry at once.

    Attributes:
        retry_after_s: how long the client should wait before it tries again.
        reason: what there is too much of, a word for metrics.
    """

    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"
    outcome = "queue_full"

    def __init__(
        self,
        message: str = "too many requests are waiting",
        retry_after_s: float = 1.0,
        reason: QueueReason = "waiting",
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.reason = reason


class MemberFailed(RequestError):
    """A member failed on this input, and without it there is no quorum; the message names it."""

    outcome = "member_failed"


class InternalFault(RequestError):
    """A fault of the server's own; what went wrong is in its log, under the request's id.

    Attributes:
        request_id: the client's, or a new one.
    """

    def __init__(self, request_id: str) -> None:
        super().__init__(f"internal error, see the server's log for request {request_id}")
        self.request_id = request_id


class Unavailable(RequestError):
    """The server is starting or draining, or the quorum cannot be met at present.

    Nothing was done for the request, so it may be sent again.

    Attributes:
        retry_after_s: how long the client should wait before it tries again.
        reason: which of these it is, a word for metrics: ``starting``, ``draining``, ``no_quorum``.
    """

    http_status = 503
    grpc_status = "UNAVAILABLE"
    outcome = "unavailable"
    retry_after_s = 1.0

    def __init__(self, message: str, reason: str = "no_quorum") -> None:
        super().__init__(message)
        self.reason = reason


class ClientGone(Unavailable):
    """The client has gone before it had its answer; nobody reads this."""

    outcome = "disconnected"

    def __init__(self) -> None:
        super().__init__("the client has gone", reason="")


class DeadlineExceeded(RequestError):
    """The deadline passed before a quorum of members had answered."""

    http_status = 504
    grpc_status = "DEADLINE_EXCEEDED"
    outcome = "deadline"

    def __init__(self, message: str = "the deadline passed before the quorum was met") -> None:
        super().__init__(message)
