"""What a load process counts, and what it hands over: runs in each load process.

One request, two populations. *Latency and errors* are of the requests whose intended start lies in
the measurement, whenever they end: a stall at its end is not lost. *Throughput* is of the answers
that arrive in the measurement: what an overloaded server answers later does not add to its rate.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from ensembled_client.load.answers import Verdict
from ensembled_client.load.histogram import Durations, EncodedDurations
from ensembled_client.load.lag import Usage

__all__ = ["SERIES_NS", "Recorder", "Tally", "Window"]

#: The width of an entry of the time series.
SERIES_NS = 100_000_000

_MOST_KINDS = 64
_OTHER = "errors of other kinds"
_RECENT = 4096


@dataclass
class Window:
    """The measurement, in nanoseconds of the monotonic clock.

    Attributes:
        begin_ns: the end of the warm-up.
        end_ns: None until it is known: then it is the last answer.
    """

    begin_ns: int
    end_ns: int | None = None

    def has_begun(self, at_ns: int) -> bool:
        """Whether that is no longer warm-up."""
        return at_ns >= self.begin_ns

    def contains(self, at_ns: int) -> bool:
        """Whether that is in the measurement."""
        return self.begin_ns <= at_ns and (self.end_ns is None or at_ns < self.end_ns)


@dataclass(frozen=True)
class Tally:
    """What one process, or all together, have counted.

    Attributes:
        window: the measurement; its end is known.
        sent: requests whose intended start was in it.
        fine: of those, the ones with a good answer.
        errors: of those, the others by kind.
        abandoned: of those, without an answer when the test was broken off.
        degraded: of the good answers, those of fewer members than the ensemble has.
        waited: requests that were due while all connections were busy.
        latency: of the good answers, from the intended start.
        service: the same from the actual sending.
        answers: good answers that arrived in the measurement.
        rows: of those.
        in_time: of those, the ones within the deadline.
        series: by number of `SERIES_NS` since the begin: [good answers, errors].
        schedule_lag: how late the tester was with what was due; open loop only.
        loop_lag: how late its event loop was.
        usages: of each process.
        was_stopped: whether it was broken off.
    """

    window: Window
    sent: int
    fine: int
    errors: Counter[str]
    abandoned: int
    degraded: int
    waited: int
    latency: EncodedDurations
    service: EncodedDurations
    answers: int
    rows: int
    in_time: int
    series: dict[int, tuple[int, int]]
    schedule_lag: EncodedDurations
    loop_lag: EncodedDurations
    usages: tuple[Usage, ...]
    was_stopped: bool


@dataclass(eq=False)
class Recorder:
    """Counts as requests end.

    Attributes:
        window: the measurement.
        deadline_ns: what answers should keep to; None for none.
        keeps_service: whether the actual sending is another time than the intended one.
    """

    window: Window
    deadline_ns: int | None = None
    keeps_service: bool = True
    latency: Durations = field(default_factory=Durations)
    service: Durations = field(default_factory=Durations)
    schedule_lag: Durations = field(default_factory=Durations)
    errors: Counter[str] = field(default_factory=Counter)
    recent_ns: deque[int] = field(default_factory=lambda: deque(maxlen=_RECENT))
    sent: int = 0
    fine: int = 0
    abandoned: int = 0
    degraded: int = 0
    waited: int = 0
    answers: int = 0
    rows: int = 0
    in_time: int = 0
    last_ns: int = 0
    _series: dict[int, list[int]] = field(default_factory=dict)

    def begun(self, intended_ns: int) -> None:
        """A request was sent, or was due."""
        if self.window.contains(intended_ns):
            self.sent += 1

    def late(self, intended_ns: int, now_ns: int) -> None:
        """The tester noticed only now that a request was due."""
        if self.window.contains(intended_ns):
            self.schedule_lag.record(now_ns - intended_ns)

    def ended(
        self, intended_ns: int, sent_ns: int, now_ns: int, rows: int, verdict: Verdict
    ) -> None:
        """A request has its answer, or never will."""
        latency_ns = now_ns - intended_ns
        self.last_ns = now_ns
        self.recent_ns.append(latency_ns)
        if self.window.contains(now_ns):
            self._arrived(latency_ns, now_ns, rows, verdict.error is None)
        if not self.window.contains(intended_ns):
            return
        if verdict.error is None:
            self.fine += 1
            self.degraded += verdict.is_degraded
            self.latency.record(latency_ns)
            if self.keeps_service:
                self.service.record(now_ns - sent_ns)
        else:
            known = verdict.error in self.errors or len(self.errors) < _MOST_KINDS
            self.errors[verdict.error if known else _OTHER] += 1

    def _arrived(self, latency_ns: int, now_ns: int, rows: int, is_fine: bool) -> None:
        entry = self._series.setdefault((now_ns - self.window.begin_ns) // SERIES_NS, [0, 0])
        if not is_fine:
            entry[1] += 1
            return
        entry[0] += 1
        self.answers += 1
        self.rows += rows
        if self.deadline_ns is not None and latency_ns <= self.deadline_ns:
            self.in_time += 1

    def abandon(self, intended_ns: int) -> None:
        """The test was broken off before this request had its answer."""
        if self.window.contains(intended_ns):
            self.abandoned += 1

    def tally(self, loop_lag: Durations, usage: Usage, *, was_stopped: bool) -> Tally:
        """What was counted; an open window ends with the last answer."""
        end_ns = self.window.end_ns
        if end_ns is None:
            end_ns = max(self.last_ns, self.window.begin_ns)
        return Tally(
            window=Window(self.window.begin_ns, end_ns),
            sent=self.sent,
            fine=self.fine,
            errors=self.errors,
            abandoned=self.abandoned,
            degraded=self.degraded,
            waited=self.waited,
            latency=self.latency.encode(),
            service=self.service.encode(),
            answers=self.answers,
            rows=self.rows,
            in_time=self.in_time,
            series={bin_: (good, bad) for bin_, (good, bad) in self._series.items()},
            schedule_lag=self.schedule_lag.encode(),
            loop_lag=loop_lag.encode(),
            usages=(usage,),
            was_stopped=was_stopped,
        )
