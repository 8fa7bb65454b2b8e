"""What a profiler and the process that holds it say to each other.

Used in both: each message is a line of JSON, a `ProfilerSpec` and then `Command`s on the
child's stdin, a `Loaded` and then a `Measured` or `Compared` for each command (or the reason why
not) on its status channel.
"""

from __future__ import annotations

import msgspec

from workers.runtime.bootstrap import Failed
from workers.runtime.memory import board_bytes
from workers.runtime.spec import DeviceSpec, InstanceSpec, MemorySpec

__all__ = [
    "ARENA_OFFSET",
    "LEAST_RUNS",
    "LONG_RUN_S",
    "PROCESSES",
    "Command",
    "Compare",
    "Compared",
    "Loaded",
    "Measure",
    "Measured",
    "ProfilerSpec",
    "Reply",
]

#: Who is on the board of a profiler's memory.
PROCESSES = ("profiler",)
#: Where the arena of a profiler's memory begins.
ARENA_OFFSET = board_bytes(len(PROCESSES))

#: How often a batch is run for its latency, at least, after a run for its memory.
LEAST_RUNS = 5
#: After a run that takes longer, one run is enough.
LONG_RUN_S = 1.0


class ProfilerSpec(msgspec.Struct, frozen=True):
    """The child's first line: where to load which instance; its batch is the largest to come."""

    device: DeviceSpec
    instance: InstanceSpec
    memory: MemorySpec


class Measure(msgspec.Struct, frozen=True, tag=True):
    """A command: run batches of a size, `LEAST_RUNS` of them at least.

    Attributes:
        batch: the size, rows.
        seconds: for how long, about.
    """

    batch: int
    seconds: float


class Compare(msgspec.Struct, frozen=True, tag=True):
    """A command: run batches of several sizes in turn; each has been measured before.

    Attributes:
        batches: the sizes, rows.
        seconds: for how long, about; each size is run once at least.
    """

    batches: tuple[int, ...]
    seconds: float


Command = Measure | Compare


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The member is loaded.

    Attributes:
        worker_bytes: what the process takes without the member, in the device's memory.
    """

    worker_bytes: int


class Measured(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Measure`.

    Attributes:
        batch: how many rows were run at once.
        latency_s: seconds per batch, the median of warm runs.
        memory_bytes: what loading the member and running batches up to this size has added.
    """

    batch: int
    latency_s: float
    memory_bytes: int


class Compared(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Compare`.

    Attributes:
        latencies_s: seconds per batch of each size, the median of its runs.
    """

    latencies_s: tuple[float, ...]


#: A line from the child.
Reply = Loaded | Measured | Compared | Failed
