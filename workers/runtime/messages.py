"""The messages between processes: small, typed, one union per receiver. Payload never travels.

Used in every process; encoded with msgpack. Ranges are [start, stop) in absolute row numbers.
A message whose epoch is not the present front-end's is dropped by its receiver.
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
    """One batch for one member: several ranges are gathered into it. Ids grow and never repeat.

    Attributes:
        traces: spans of the requests in it that are traced (see `workers.runtime.tracing`).
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
    """Front-end to worker and combiner: a new front-end is there; say Hello when you are idle."""

    epoch: int


class Predictions(msgspec.Struct, frozen=True, array_like=True):
    """A member has settled these rows of an arena: predicted them or failed on them."""

    arena: int
    start: int
    stop: int
    error: str = ""


class Predicted(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Worker (or, for one that died, front-end) to combiner: look at these rows again."""

    ranges: tuple[Predictions, ...]


class Close(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Front-end to combiner: end these rows with what is there (`closing` holds their numbers)."""

    arena: int
    start: int
    stop: int


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Worker to front-end, at its start, after a reset and while idle: it repairs lost messages.

    Attributes:
        epoch: the front-end it belongs to, 0 at first.
        finished: the last job it finished.
        latencies: per instance, seconds of a warm batch of one row and of a full one.
    """

    epoch: int
    finished: int
    latencies: tuple[tuple[float, float], ...]


class Finished(msgspec.Struct, frozen=True, array_like=True):
    """A job is over, after that many seconds of work.

    Attributes:
        flawless: whether every row of it was predicted: none failed, none was skipped.
    """

    job: int
    elapsed_s: float
    flawless: bool = False


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Worker to front-end: these jobs are over, there is room for more."""

    epoch: int
    finished: tuple[Finished, ...]


class Ended(msgspec.Struct, frozen=True, array_like=True):
    """Rows of one ensemble that rest on the same members have ended; failed unless `answered`.

    Attributes:
        certain: only their best class is wanted, and no member that is missing could change it.
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
    """Rows whose answer is not sure enough after a stage of their cascade."""

    arena: int
    start: int
    stop: int
    stage: int


class Unsure(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Combiner to front-end: let the next stage of their cascade predict these rows.

    It is said again until the rows' terms name a later stage.
    """

    deferred: tuple[Deferred, ...]


class CombinerHello(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Combiner to front-end, at its start (epoch 0) and after a reset."""

    epoch: int


ToWorker = Assign | Reset
ToCombiner = Predicted | Close | Reset
ToFrontEnd = Hello | Ready | Combined | CombinerHello | Unsure

encode = msgspec.msgpack.Encoder().encode
