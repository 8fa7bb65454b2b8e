"""What a load process is told, and what it tells. Frozen; travels through pipes between processes.

parent                         load process
  |  Job (at its start)            |
  |------------------------------->|  connects
  |<------------------------ Ready |  or Failed
  | Start ------------------------>|  warm-up, measurement
  |<--------------------- Progress |  now and then, if wanted
  | Stop (Ctrl-C) ---------------->|
  |<------------------------ Tally |  or Failed
"""

from __future__ import annotations

from dataclasses import dataclass

from ensembled_client.load.schedule import Schedule
from ensembled_client.load.target import Target
from ensembled_client.load.workload import Workload

__all__ = ["Failed", "Job", "Progress", "Ready", "Start", "Stop", "divide"]


@dataclass(frozen=True)
class Job:
    """The part of the load that one process makes.

    Attributes:
        target: where it goes.
        workload: what is sent.
        index: the number of the process.
        of: how many processes there are.
        lanes: connections; in an open loop the most that may be open.
        schedule: of all processes together; None for a closed loop.
        warmup_s: not counted.
        duration_s: of the measurement; None for as long as `count` or the trace takes.
        count: of this process' requests in a closed loop; None for no limit.
        patience_s: how long an answer is waited for.
        deadline_s: what answers should keep to; None for none.
        progress_s: how often to tell of progress; None for never.
    """

    target: Target
    workload: Workload
    index: int
    of: int
    lanes: int
    schedule: Schedule | None
    warmup_s: float
    duration_s: float | None
    count: int | None
    patience_s: float
    deadline_s: float | None
    progress_s: float | None


@dataclass(frozen=True)
class Ready:
    """Connected; waits for the start."""


@dataclass(frozen=True)
class Start:
    """All are ready: begin with the warm-up at a time of the monotonic clock."""

    at_ns: int


@dataclass(frozen=True)
class Stop:
    """Send nothing more, and report."""


@dataclass(frozen=True)
class Failed:
    """The process can't do its work; `message` is one line."""

    message: str


@dataclass(frozen=True)
class Progress:
    """How it goes.

    Attributes:
        index: of the process.
        fine: good answers so far, without the warm-up.
        failed: errors so far, without the warm-up.
        in_flight: requests that wait for their answer.
        recent_ns: latencies of the last requests.
    """

    index: int
    fine: int
    failed: int
    in_flight: int
    recent_ns: tuple[int, ...]


def divide(whole: int, index: int, of: int) -> int:
    """Return the part of one process of a whole number; all parts together are the whole."""
    return whole // of + (index < whole % of)
