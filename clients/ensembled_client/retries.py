"""When a request is sent again, after which pause, and how much time a call has left.

Pure but for the clock. A request is sent again only if the server is certainly not at work on it:
the connection was refused, or the server has answered that it is overloaded (429) or unavailable
(503; over gRPC RESOURCE_EXHAUSTED and UNAVAILABLE with `retry-after`: without it, UNAVAILABLE may
be what the library says when a connection breaks). When a connection breaks while a response is
awaited nobody knows how far the request came, so it is never sent again. Where that would be
common, with idle connections that the server closes just then, it is avoided: the client closes
them long before the server does, and checks whether the server has hung up before it uses one.

Pauses grow exponentially and are drawn uniformly from zero to that ("full jitter"), so that many
clients don't come back at the same moment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ensembled_client.errors import DeadlineExceeded, EnsembledClientError
from ensembled_client.io_backend import IOBackend

__all__ = ["CallClock", "RetryPolicy"]

#: What passes before a request is sent is taken off its deadline from here on. Below, equal
#: requests stay equal, and so neither side has to encode or parse their header again.
_UNCOUNTED_S = 1e-3


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and how fast.

    Attributes:
        retries: how many times a request is sent again at most; 0 turns it off.
        first_pause_s: the longest that the first pause can be; the next ones double it.
        max_pause_s: the longest that any pause can be.
        max_retry_after_s: the longest that a server may ask to wait (Retry-After) before the
            error is raised instead. What it asks for is waited for, and the pause comes on top.
    """

    retries: int = 3
    first_pause_s: float = 0.1
    max_pause_s: float = 2.0
    max_retry_after_s: float = 30.0

    def __post_init__(self) -> None:
        """Raise ValueError if a number is negative."""
        if min(self.retries, self.first_pause_s, self.max_pause_s, self.max_retry_after_s) < 0:
            raise ValueError(f"negative numbers in {self}")

    def pause_s(
        self, tries: int, error: EnsembledClientError, uniform: Callable[[float, float], float]
    ) -> float | None:
        """Return the pause after so many failed tries and the last `error`; None to give up."""
        if tries > self.retries or not error.safe_to_retry:
            return None
        pause_s = uniform(0.0, min(self.max_pause_s, self.first_pause_s * 2.0 ** (tries - 1)))
        retry_after_s = error.retry_after or 0.0
        return None if retry_after_s > self.max_retry_after_s else retry_after_s + pause_s


class CallClock:
    """The time that one call has left, and how many requests (`tries`) it has sent."""

    def __init__(self, backend: IOBackend, timeout_s: float | None) -> None:
        self._backend = backend
        self._timeout_s = timeout_s
        self._started_s = backend.now()
        self.tries = 0

    def passed_s(self) -> float:
        """Return the seconds since the start."""
        return self._backend.now() - self._started_s

    def left_s(self) -> float | None:
        """Return the seconds left, None for any number; DeadlineExceeded if there are none."""
        if self._timeout_s is None:
            return None
        passed_s = self.passed_s()
        if passed_s >= self._timeout_s:
            raise DeadlineExceeded(f"{self._timeout_s:g} s passed before the request was answered")
        return self._timeout_s if passed_s < _UNCOUNTED_S else self._timeout_s - passed_s

    def allows(self, pause_s: float) -> bool:
        """Whether time is left after a pause."""
        return self._timeout_s is None or self.passed_s() + pause_s < self._timeout_s
