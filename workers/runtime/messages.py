"""The messages between processes: small and typed, one union per receiver, without payload.

Used in every process; encoded with msgpack. Ranges are [start, stop) in absolute row numbers.
A receiver drops messages whose epoch is not that of the current front-end.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "Assign",
    "Close",
    "Combined",
    "CombinerHello",
    "Deferred",
    "Ended",
    "Finished",
    "Hello",
    "Job",
    "Predicted",
    "Predictions",
    "Ready",
    "Reset",
    "ToCombiner",
    "ToFrontEnd",
    "ToWorker",
    "Unsure",
    "encode",
]


class Job(msgspec.Struct, frozen=True, array_like=True):
    """One batch for one instance, gathered from several ranges. Ids grow and never repeat.

    `traces` are the spans of its traced requests (see `workers.runtime.tracing`).
    """

    id: int
    instance: int
    ranges: tuple[tuple[int, int], ...]
    traces: tuple[bytes, ...] = ()


class Assign(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Front-end to worker: run these jobs, in this order."""

    epoch: int
    jobs: tuple[Job, ...]


class Reset(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Front-end to worker and combiner: a new front-end has started; reply with a hello."""

    epoch: int


class Predictions(msgspec.Struct, frozen=True, array_like=True):
    """A member is done with these rows of an arena: it has predicted them or failed on them."""

    arena: int
    start: int
    stop: int
    error: str = ""


class Predicted(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Worker (or, for one that died, front-end) to combiner: check these rows again."""

    ranges: tuple[Predictions, ...]


class Close(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Front-end to combiner: end these rows now (`closing` holds their numbers)."""

    arena: int
    start: int
    stop: int


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Worker to front-end, at its start, after a reset and while idle; repairs lost messages.

    Attributes:
        epoch: of the front-end that it knows, 0 at first.
        finished: the last job it finished.
        latencies: by instance, seconds of a warm batch of one row and of a full one.
    """

    epoch: int
    finished: int
    latencies: dict[int, tuple[float, float]]


class Finished(msgspec.Struct, frozen=True, array_like=True):
    """A job is over, after `elapsed_s` of work; `all_predicted` if no row failed or was skipped."""

    job: int
    elapsed_s: float
    all_predicted: bool = False


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Worker to front-end: these jobs are over, the worker can accept more."""

    epoch: int
    finished: tuple[Finished, ...]


class Ended(msgspec.Struct, frozen=True, array_like=True):
    """Rows of one ensemble that rest on the same members have ended; failed unless `answered`.

    They are `certain` if only their best class is wanted and no missing member could change it.
    """

    arena: int
    start: int
    stop: int
    used: int
    answered: bool
    error: str = ""
    certain: bool = False


class Combined(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Combiner to front-end: these rows have their answer, or have failed for good."""

    ended: tuple[Ended, ...]


class Deferred(msgspec.Struct, frozen=True, array_like=True):
    """Rows whose answer is not confident enough after a stage of their cascade."""

    arena: int
    start: int
    stop: int
    stage: int


class Unsure(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Combiner to front-end: let the next stage of their cascade predict these rows.

    Repeated until the rows' terms name a later stage.
    """

    deferred: tuple[Deferred, ...]


class CombinerHello(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Combiner to front-end, at its start (epoch 0) and after a reset."""

    epoch: int


ToWorker = Assign | Reset
ToCombiner = Predicted | Close | Reset
ToFrontEnd = Hello | Ready | Combined | CombinerHello | Unsure

encode = msgspec.msgpack.Encoder().encode
