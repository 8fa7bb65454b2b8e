"""What a caller wants of one call, and the time that it has left. Pure, but for the clock.

Made by the clients, read by the session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from ensembled_client.errors import DeadlineExceeded, RequestRejected
from ensembled_client.exchange import Parameter
from ensembled_client.runtime import Runtime

__all__ = ["Clock", "Wish"]

#: What passes before a request is sent is taken off its deadline from here on. Below, equal
#: requests stay equal, and so neither side has to encode or parse their header again.
_UNCOUNTED_S = 1e-3


@dataclass(frozen=True)
class Wish:
    """What a caller wants beside the combined answer, and when; see `EnsembleClient.predict`."""

    timeout: float | None = None
    members: Sequence[str] | None = None
    quorum: int | None = None
    uncertainty: bool | Sequence[str] = False
    member_outputs: bool = False
    max_rows: int | None = None
    classes: int = 0
    class_only: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            RequestRejected: if one of them makes no sense.
        """
        if self.timeout is not None and not 0 < self.timeout < inf:
            raise RequestRejected(f"a timeout is a number of seconds above 0, not {self.timeout}")
        for name in ("quorum", "max_rows"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise RequestRejected(f"{name} is a whole number, 1 or more, not {value!r}")
        if self.members is not None and not self.member_names:
            raise RequestRejected("members is empty: name one or more, or leave it out for all")

    @property
    def member_names(self) -> tuple[str, ...]:
        """The members that were chosen, () for all."""
        if self.members is None:
            return ()
        return (self.members,) if isinstance(self.members, str) else tuple(self.members)

    @property
    def parameters(self) -> tuple[tuple[str, Parameter], ...]:
        """As the protocol has them, but for the timeout."""
        given: list[tuple[str, Parameter]] = []
        if self.members is not None:
            given.append(("members", ",".join(self.member_names)))
        if self.quorum is not None:
            given.append(("quorum", self.quorum))
        return tuple(given)


class Clock:
    """The time that one call has left, and what it has cost."""

    def __init__(self, runtime: Runtime, timeout_s: float | None) -> None:
        self._runtime = runtime
        self._timeout_s = timeout_s
        self.started = runtime.now()
        self.tries = 0

    def passed_s(self) -> float:
        """Return the seconds since it was started."""
        return self._runtime.now() - self.started

    def left_s(self) -> float | None:
        """Return the seconds that are left, None for any number.

        Raises:
            DeadlineExceeded: if there are none.
        """
        if self._timeout_s is None:
            return None
        passed_s = self.passed_s()
        if passed_s >= self._timeout_s:
            raise DeadlineExceeded(f"{self._timeout_s:g} s passed before the request was answered")
        return self._timeout_s if passed_s < _UNCOUNTED_S else self._timeout_s - passed_s

    def allows(self, pause_s: float) -> bool:
        """Whether something is left after a pause."""
        return self._timeout_s is None or self.passed_s() + pause_s < self._timeout_s
