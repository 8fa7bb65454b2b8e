"""The one tree of typed errors, used in the front-end, the supervisor and the command line.

The arguments of each class statement say how HTTP, gRPC and metrics report it. Errors are raised
where the problem is found, and become a response, a gRPC status or an exit code at the edge. They
never cross a process boundary as objects: workers and the combiner report failures as data.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Literal

__all__ = [
    "ChangeFailed",
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
    "did_you_mean",
]

#: Which limit was reached: requests or rows waiting for the arena, the time that queued work takes,
#: the request's deadline, memory for bodies, requests of one client, open gRPC calls.
QueueReason = Literal["waiting", "time", "deadline", "memory", "client", "calls"]


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ``, did you mean 'x'?`` with the choice closest to a word, empty if none is close."""
    nearest = difflib.get_close_matches(word, list(choices), n=1)
    return f", did you mean '{nearest[0]}'?" if nearest else ""


class EnsembledError(Exception):
    """The root of the tree.

    Attributes:
        http_status: the status code of an HTTP response.
        grpc_status: the name of a `grpc.StatusCode`.
        exit_code: of the command line.
        message: for the user.
    """

    http_status = 500
    grpc_status = "INTERNAL"
    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigError(EnsembledError):
    """The user's input (a configuration, an argument) is wrong.

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

    Subclasses define their attributes by keyword arguments of the class statement.

    Attributes:
        outcome: how the request ended, a label of metrics.
        reason: why it was refused, a label of metrics, if that was because of the server's state or
            limits; else empty.
    """

    outcome = "internal"
    reason: str = ""

    def __init_subclass__(
        cls, *, http: int = 0, grpc: str = "", outcome: str = "", reason: str = ""
    ) -> None:
        super().__init_subclass__()
        cls.http_status = http or cls.http_status
        cls.grpc_status = grpc or cls.grpc_status
        cls.outcome = outcome or cls.outcome
        cls.reason = reason or cls.reason


class InvalidRequest(RequestError, http=400, grpc="INVALID_ARGUMENT", outcome="invalid"):
    """The request is malformed, or a tensor has the wrong name, shape, datatype or size."""


class Unauthenticated(
    RequestError,
    http=401,
    grpc="UNAUTHENTICATED",
    outcome="unauthenticated",
    reason="unauthenticated",
):
    """The request needs an API key, and has none or an unknown one."""


class Forbidden(
    RequestError, http=403, grpc="PERMISSION_DENIED", outcome="forbidden", reason="forbidden"
):
    """The request's API key is known, but lacks the scope."""


class UnknownModel(RequestError, http=404, grpc="NOT_FOUND", outcome="unknown_model"):
    """The request names neither an ensemble nor a member.

    Attributes:
        model: the requested name.
    """

    def __init__(self, model: str, version: str = "", versions: Sequence[str] = ()) -> None:
        asked = f"{model!r} version {repr(version)[1:-1]}" if versions and version else repr(model)
        there_are = f", it has version {', '.join(versions)}" if versions else ""
        super().__init__(f"Request for unknown model: {asked} is not found{there_are}")
        self.model = model


class RequestTimeout(
    RequestError, http=408, grpc="DEADLINE_EXCEEDED", outcome="body_timeout", reason="body_timeout"
):
    """The client took too long to send its request."""


class RequestTooLarge(
    RequestError, http=413, grpc="RESOURCE_EXHAUSTED", outcome="too_large", reason="too_large"
):
    """The body is over the limit, or its images would be when decoded."""


class UnsupportedMediaType(RequestError, http=415, grpc="INVALID_ARGUMENT", outcome="invalid"):
    """The body has a content encoding that the server does not support."""


class QueueFull(RequestError, http=429, grpc="RESOURCE_EXHAUSTED", outcome="queue_full"):
    """Too much work is queued: the request was refused before any work was done for it.

    The gRPC status is not UNAVAILABLE, which clients retry at once.

    Attributes:
        retry_after_s: how long the client should wait before it retries.
        reason: which limit was reached, a label of metrics.
    """

    def __init__(
        self,
        message: str = "too many requests are waiting",
        retry_after_s: float = 1.0,
        reason: QueueReason = "waiting",
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.reason = reason


class ChangeFailed(RequestError, http=409, grpc="FAILED_PRECONDITION", outcome="unavailable"):
    """A change of what is served did not succeed; what was served before still is."""


class MemberFailed(RequestError, outcome="member_failed"):
    """A member failed on this input, and without it there is no quorum; the message names it."""


class InternalFault(RequestError):
    """A bug of the server; details are in its log, under the request's id.

    Attributes:
        request_id: the client's, or a new one.
    """

    def __init__(self, request_id: str) -> None:
        super().__init__(f"internal error, see the server's log for request {request_id}")
        self.request_id = request_id


class Unavailable(RequestError, http=503, grpc="UNAVAILABLE", outcome="unavailable"):
    """The server is starting or draining, or the quorum can't be met at present.

    No work was done for the request, so it may be sent again.

    Attributes:
        retry_after_s: how long the client should wait before it retries.
        reason: which of these it is, a label of metrics: ``starting``, ``draining``, ``no_quorum``.
    """

    retry_after_s = 1.0

    def __init__(self, message: str, reason: str = "no_quorum") -> None:
        super().__init__(message)
        self.reason = reason


class ClientGone(Unavailable, outcome="disconnected"):
    """The client has disconnected before it had its answer; nobody reads this."""

    def __init__(self) -> None:
        super().__init__("the client has gone", reason="")


class DeadlineExceeded(RequestError, http=504, grpc="DEADLINE_EXCEEDED", outcome="deadline"):
    """The deadline passed before a quorum of members had answered."""

    def __init__(self, message: str = "the deadline passed before the quorum was met") -> None:
        super().__init__(message)
