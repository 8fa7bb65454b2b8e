"""A request that was accepted: what it asks of its model, and the one answer that it gets.

Used in the front-end, between the protocols and the gateway; knows neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from server.errors import RequestError
from server.gateway.flows import NORMAL, Flow
from workers.arena import Arena
from workers.predictions import ClassMap
from workers.spec import EnsembleSpec
from workers.terms import Terms

if TYPE_CHECKING:
    from server.gateway.inflight import Piece
    from server.gateway.tracing import RequestTrace

__all__ = [
    "Answer",
    "Bound",
    "Extras",
    "Request",
    "ServedModel",
    "StoredInput",
    "Wish",
    "answer_bytes",
]

_ALL = -1


class ServedModel(msgspec.Struct, frozen=True):
    """A model of the protocol: an ensemble, or a member by itself.

    Attributes:
        arena: index of its arena.
        ensemble: its index among the arena's ensembles.
        spec: its members, rule and quorum.
        deadline_s: how long a request may take by default, 0 for no limit.
    """

    arena: int
    ensemble: int
    spec: EnsembleSpec
    deadline_s: float = 0.0

    @property
    def name(self) -> str:
        """The name that clients use."""
        return self.spec.name


#: A view of the arena and what goes there: an array [rows, *view shape].
StoredInput = tuple[int, npt.NDArray[np.generic]]


class Wish(msgspec.Struct, frozen=True):
    """What a request asks of its model; by default the ensemble as it is configured.

    Attributes:
        timeout_s: its own deadline, 0 for none; the model's holds as well.
        members: mask of the members that it wants, -1 for all.
        quorum: the fewest members the answer may rest on, 0 for the ensemble's own (or all that
            it wants, if those are fewer).
        scores: whether it wants to know how much the members agree.
        predictions: members whose own predictions it wants, by index.
        masks: whether it wants to know which members each row rests on.
        class_only: whether it wants to know each row's best class, and nothing else.
        level: its priority (`server.gateway.flows`).
    """

    timeout_s: float = 0.0
    members: int = _ALL
    quorum: int = 0
    scores: bool = False
    predictions: tuple[int, ...] = ()
    masks: bool = False
    class_only: bool = False
    level: int = NORMAL

    @property
    def asks_everybody(self) -> bool:
        """Whether each row needs the prediction of every member that it names."""
        return self.scores or bool(self.predictions) or self.members != _ALL

    @property
    def has_extras(self) -> bool:
        """Whether it wants more than the combined answer."""
        return self.scores or self.masks or bool(self.predictions)


class Bound(msgspec.Struct, frozen=True):
    """A request that was checked against its model.

    Attributes:
        inputs: arrays [rows, ...] and the views they go to; unchanged until it is answered.
        rows: at least 1.
        wish: what it asks beside that.
    """

    inputs: list[StoredInput]
    rows: int
    wish: Wish = Wish()


def answer_bytes(model: EnsembleSpec, bound: Bound) -> int:
    """What the answer to a request will hold, for the most part."""
    wish, row_bytes = bound.wish, model.output.row_bytes
    if wish.has_extras:
        row_bytes += len(wish.predictions) * model.predicted.row_bytes
    return bound.rows * row_bytes


class Extras:
    """What a request gets beside the combined answer; filled in piece by piece.

    Attributes:
        scores: FP32 [rows, scores of the ensemble], in the order of its spec.
        used: uint64 [rows], masks of the members that each row rests on.
        predictions: by member, [rows, *shape], in the ensemble's classes; NaN where it did not
            contribute.
    """

    def __init__(self, model: EnsembleSpec, wish: Wish, rows: int) -> None:
        self.used = np.zeros(rows, np.uint64)
        self.scores = np.zeros((rows if wish.scores else 0, len(model.scores)), np.float32)
        shape, dtype = (rows, *model.predicted.shape), model.predicted.dtype
        self.predictions = {member: np.full(shape, np.nan, dtype) for member in wish.predictions}
        self._maps = {
            member: ClassMap(columns)
            for member, columns in zip(model.members, model.columns, strict=bool(model.columns))
            if member in self.predictions
        }

    def take(self, row: int, arena: Arena, slots: slice, used: int) -> None:
        """Take in some rows that have ended, the first of which is the request's `row`-th."""
        rows = slice(row, row + slots.stop - slots.start)
        self.used[rows] = used
        if len(self.scores):
            self.scores[rows] = arena.scores[slots, : self.scores.shape[1]]
        for member, values in self.predictions.items():
            if not used >> member & 1:
                continue
            if member in self._maps:
                self._maps[member].write(arena.predictions[member][slots], values[rows])
            else:
                values[rows] = arena.predictions[member][slots]


class Answer(msgspec.Struct, frozen=True):
    """What the ensemble says of a request's rows.

    Attributes:
        values: the combined output, row-major, of the model's output type.
        rows: how many.
        used: mask of the members that every row's answer rests on.
        degraded: whether some row's answer rests on fewer members than it should.
        extras: what was wished for beside it.
        accepted: when the request was accepted, on the monotonic clock in seconds.
        started: when the last of its jobs was handed to a worker.
        ended: when its last row was combined.
        saved: predictions, members times rows, that were not needed.
    """

    values: bytes | bytearray
    rows: int
    used: int
    degraded: bool
    extras: Extras | None = None
    accepted: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    saved: int = 0


class Request(msgspec.Struct, eq=False):
    """A request between its acceptance and its one terminal answer.

    Attributes:
        asked: mask of the members that the client wants.
        expected: those of them that its rows wait for at first.
        quorum: the fewest members that each row's answer may rest on.
        terms: on which its rows are answered at first.
        flow: with whom it takes its turns.
        left_s: how long it may take from its acceptance, 0 for ever.
        forecast_s: how long it should take but for the bias of its flow, 0 if nobody was before it.
        short: whether an answer rests on fewer members than it should.
        saved: predictions, members times rows, that were not needed.
        started: when the last of its jobs was handed to a worker; before `accepted` if none was.
        held_bytes: what is counted for its answer.
        trace: its trace, if it is traced.
    """

    model: ServedModel
    inputs: list[StoredInput]
    rows: int
    asked: int
    expected: int
    quorum: int
    future: asyncio.Future[Answer]
    accepted: float
    terms: Terms
    flow: Flow
    left_s: float = 0.0
    forecast_s: float = 0.0
    extras: Extras | None = None
    on_slow: Callable[[Request], None] | None = None
    timer: asyncio.TimerHandle | None = None
    pieces: list[Piece] | None = None
    claimed: int = 0
    settled: int = 0
    used: int = -1
    short: bool = False
    saved: int = 0
    started: float = 0.0
    values: bytes | bytearray = b""
    held_bytes: int = 0
    close_reason: RequestError | None = None
    error: RequestError | None = None
    trace: RequestTrace | None = None

    @property
    def is_over(self) -> bool:
        """Whether all the rows that it has, and will have, in the arena have ended."""
        return self.settled == self.claimed and (self.claimed == self.rows or self.gives_up)

    @property
    def gives_up(self) -> bool:
        """Whether it claims no more rows."""
        return self.error is not None or self.close_reason is not None

    def take(self, row: int, values: bytes) -> None:
        """Take in the answers of some rows, the first of which is the request's `row`-th."""
        size = self.model.spec.output.row_bytes
        if len(values) == self.rows * size:
            self.values = values
            return
        if not self.values:
            self.values = bytearray(self.rows * size)
        memoryview(self.values)[row * size : row * size + len(values)] = values

    def give_up(self) -> None:
        """Tell why it was closed; its rows stay in the arena until the combiner has ended them."""
        assert self.close_reason is not None
        if not self.future.done():
            self.future.set_exception(self.close_reason)

    def resolve(self, now: float) -> None:
        """Give the terminal answer, and let go of what refers back to the request."""
        self.on_slow = self.pieces = None
        if self.timer is not None:
            self.timer.cancel()
        if self.future.done():
            return
        if self.claimed < self.rows and self.error is None:
            self.error = self.close_reason
        if self.error is not None:
            self.future.set_exception(self.error)
            return
        self.future.set_result(
            Answer(
                self.values,
                self.rows,
                self.used,
                self.short,
                self.extras,
                self.accepted,
                max(self.started, self.accepted),
                now,
                self.saved,
            )
        )
