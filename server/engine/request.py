"""A request in the engine: its options, the terms it was accepted on, and its one outcome.

Used in the front-end, between the protocols and the engine; imports neither.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
import numpy as np

from allocator.dispatch.flows import NORMAL, Flow
from server.engine.spec import ServedModel
from server.errors import RequestError
from workers.combiner.predictions import ClassMap
from workers.runtime.arena import Arena, Array, Cells, Terms
from workers.runtime.spec import EnsembleSpec, TensorSpec

__all__ = [
    "Admission",
    "Answer",
    "Extras",
    "Outcome",
    "PreparedRequest",
    "Request",
    "Span",
    "StoredInput",
    "TraceHandle",
    "InferOptions",
]

_log = logging.getLogger(__name__)
_ALL = -1
_NO_SIZES: Mapping[str, int] = {}

#: A view of the arena and the bytes that go there: rows one after another, each as the view has it.
StoredInput = tuple[int, memoryview]

#: Adjacent rows [start, stop) of a request, within one segment; the first is its `offset`-th row.
Span = tuple[int, int, int]


class TraceHandle(Protocol):
    """What the engine knows of a traced request's span (see `server.engine.tracing`).

    `packed` is its context, as workers get it; `accepted`, when the engine accepted the request, on
    the monotonic clock.
    """

    packed: bytes
    accepted: float


class InferOptions(msgspec.Struct, frozen=True):
    """The options of a request; by default the ensemble as it is configured.

    Attributes:
        timeout_s: its own deadline, 0 for none; the model's applies as well.
        members: mask of the members to use, -1 for all.
        quorum: the fewest members the answer may rest on, 0 for the ensemble's own (or all of
            `members`, if those are fewer).
        scores: whether to return how much the members agree.
        predictions: members' own predictions to return, by prediction area.
        outputs: further combined outputs to return, as indices into the ensemble's.
        masks: whether to return which members each row rests on.
        class_only: whether to return each row's best class, and nothing else.
        priority: `HIGH`, `NORMAL` or `LOW` of `allocator.dispatch.flows`.
    """

    timeout_s: float = 0.0
    members: int = _ALL
    quorum: int = 0
    scores: bool = False
    predictions: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    masks: bool = False
    class_only: bool = False
    priority: int = NORMAL

    @property
    def needs_all_members(self) -> bool:
        """Whether each row needs the prediction of every member in `members`."""
        return self.scores or bool(self.predictions) or self.members != _ALL

    @property
    def has_extras(self) -> bool:
        """Whether more is to be returned than the combined answer."""
        return self.scores or self.masks or bool(self.predictions or self.outputs)


class Admission(msgspec.Struct, frozen=True):
    """The terms on which requests are accepted, as long as the same members are available.

    Attributes:
        fleet_version: the version of the set of available members (see `Fleet.version`).
        requested: mask of the members that the client requests.
        expected: those of them that rows wait for at first.
        quorum: the fewest members that each row's answer may rest on.
        terms: on which rows are answered at first; `cell` holds the same, as it is in the arena.
        flow: the flow whose share of the devices the requests use.
    """

    fleet_version: int
    requested: int
    expected: int
    quorum: int
    terms: Terms
    cell: int
    flow: Flow


class PreparedRequest:
    """What is the same for every request with the same options to one model.

    Made once for requests that are repeated, and then worth keeping. `limit_s` counts from arrival,
    0 for no limit; `dims` are the sizes of each row in the order of `Arena.dims`, int64 [symbols,
    rows], None in an arena of fixed sizes; `sizes` are the largest of them, by symbol; `output` is
    its main output with these sizes, `row_bytes` is what a row's answer holds, for the most
    part; `has_extras`, whether more than the combined answer is returned; `admission`, the terms of
    the last acceptance.
    """

    __slots__ = (
        "admission",
        "dims",
        "has_extras",
        "limit_s",
        "model",
        "options",
        "output",
        "row_bytes",
        "sizes",
    )

    def __init__(
        self,
        model: ServedModel,
        options: InferOptions,
        dims: Cells | None = None,
        sizes: Mapping[str, int] = _NO_SIZES,
    ) -> None:
        self.dims = dims
        self.sizes = sizes
        self.output = model.spec.output.sized(sizes)
        self.model = model
        self.options = options
        deadlines = [seconds for seconds in (options.timeout_s, model.deadline_s) if seconds]
        self.limit_s = min(deadlines, default=0.0)
        self.has_extras = options.has_extras
        self.row_bytes = self.output.row_bytes
        if self.has_extras:
            beside = [model.spec.outputs[index] for index in options.outputs]
            beside += [model.spec.areas[area][1].tensor for area in options.predictions]
            self.row_bytes += sum(tensor.row_bytes for tensor in beside)
        self.admission: Admission | None = None


class Extras:
    """What a request gets beside the main output; filled piece by piece.

    Attributes:
        scores: FP32 [rows, scores of the ensemble, *score shape], in the order of its spec.
        used: masks of the members behind each row, uint64 [rows].
        outputs: further combined outputs, by index, each [rows, *shape].
        predictions: members' own, by prediction area, each [rows, *shape] in the ensemble's
            classes; NaN where the member did not contribute.
    """

    def __init__(
        self,
        model: EnsembleSpec,
        options: InferOptions,
        rows: int,
        sizes: Mapping[str, int] = _NO_SIZES,
    ) -> None:
        self._model = model
        self._inner = {
            tensor: tuple(map(slice, tensor.own_shape(sizes)))
            for tensor in (model.score, *model.outputs, *(one.tensor for one in model.predictions))
            if tensor.symbols
        }
        self.used = np.zeros(rows, np.uint64)
        scored = rows if options.scores else 0
        shape = model.score.own_shape(sizes)
        self.scores = np.zeros((scored, len(model.scores), *shape), np.float32)
        self.outputs = {
            index: np.zeros((rows, *output.own_shape(sizes)), output.dtype)
            for index in options.outputs
            for output in [model.outputs[index]]
        }
        self.predictions: dict[int, Array] = {}
        self._members: dict[int, tuple[int, ClassMap | None]] = {}
        for area in options.predictions:
            position, spec = model.areas[area]
            whole = (rows, *spec.tensor.own_shape(sizes))
            self.predictions[area] = np.full(whole, np.nan, spec.tensor.dtype)
            columns = ClassMap(spec.columns[position], spec.class_axis) if spec.columns else None
            self._members[area] = model.members[position], columns

    def store(self, row: int, arena: Arena, slots: slice, used: int) -> None:
        """Copy some ended rows out, the first of which is the request's `row`-th."""
        rows = slice(row, row + slots.stop - slots.start)
        self.used[rows] = used
        if len(self.scores):
            self.scores[rows] = self._own(self._model.score, arena.scores(self._model)[slots])
        for index, values in self.outputs.items():
            tensor = self._model.outputs[index]
            values[rows] = self._own(tensor, arena.answers(self._model, index)[slots])
        for area, values in self.predictions.items():
            member, columns = self._members[area]
            if not used >> member & 1:
                continue
            own = self._own(self._model.areas[area][1].tensor, arena.predictions[area][slots])
            if columns is not None:
                columns.write(own, values[rows])
            else:
                values[rows] = own

    def _own(self, tensor: TensorSpec, array: Any) -> Any:
        """What rows of the request's sizes have of an array [..., *stored shape]."""
        return array[(..., *self._inner[tensor])] if tensor.symbols else array


class Answer(msgspec.Struct, frozen=True):
    """The ensemble's answer for a request's rows.

    Attributes:
        values: the combined output, row-major, of the model's output type.
        rows: how many.
        used: mask of the members that every row's answer rests on.
        degraded: whether some row's answer rests on fewer members than it should.
        extras: what was requested beside it.
        accepted: when the request was accepted, on the monotonic clock in seconds.
        started: when the last of its jobs was handed to a worker.
        ended: when its last row was combined.
        saved: predictions, members times rows, that were not needed.
        sizes: of its rows, by symbol, if they vary.
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
    sizes: Mapping[str, int] = _NO_SIZES


Outcome = Answer | RequestError


class Request(msgspec.Struct, eq=False):
    """A request between its acceptance and its one outcome.

    Attributes:
        inputs: what is copied into the arena; unchanged until it is there, and released then.
        rows: at least 1.
        on_done: called once with the outcome, from the event loop, never within `submit`.
        accepted: when, on the monotonic clock.
        left_s: how long it may take from then, 0 for no limit.
        forecast_s: how long it should take without its flow's bias, 0 if nothing was before it.
        spans: its rows in the arena.
        claimed: how many of its rows have, or had, a slot.
        ended: how many of these have ended.
        used: mask of the members that every ended row rests on.
        short: whether an answer rests on fewer members than it should.
        saved: predictions, members times rows, that were not needed.
        started: when the last of its jobs was handed to a worker; before `accepted` if none was.
        held_bytes: what is reserved for its answer.
    """

    prepared: PreparedRequest
    admission: Admission
    inputs: list[StoredInput]
    rows: int
    on_done: Callable[[Outcome], None]
    accepted: float
    left_s: float = 0.0
    forecast_s: float = 0.0
    extras: Extras | None = None
    timer: asyncio.TimerHandle | None = None
    spans: list[Span] = []
    claimed: int = 0
    ended: int = 0
    used: int = -1
    short: bool = False
    saved: int = 0
    started: float = 0.0
    values: bytes | bytearray = b""
    held_bytes: int = 0
    close_reason: RequestError | None = None
    error: RequestError | None = None
    trace: TraceHandle | None = None
    is_resolved: bool = False

    @property
    def model(self) -> ServedModel:
        """The model that it is to."""
        return self.prepared.model

    @property
    def flow(self) -> Flow:
        """The flow whose share of the devices it uses."""
        return self.admission.flow

    @property
    def expected(self) -> int:
        """Mask of the members that its rows wait for at first."""
        return self.admission.expected

    @property
    def is_over(self) -> bool:
        """Whether all the rows that it has, and will have, in the arena have ended."""
        return self.ended == self.claimed and (self.claimed == self.rows or self.is_stopped)

    @property
    def is_stopped(self) -> bool:
        """Whether it claims no more rows."""
        return self.error is not None or self.close_reason is not None

    def store(self, row: int, values: bytes) -> None:
        """Keep the answers of some rows, the first of which is the request's `row`-th."""
        size = self.prepared.output.row_bytes
        if len(values) == self.rows * size:
            self.values = values
            return
        if not self.values:
            self.values = bytearray(self.rows * size)
        memoryview(self.values)[row * size : row * size + len(values)] = values

    def abandon(self) -> None:
        """Fail with the close reason; its rows stay in the arena until the combiner ends them."""
        assert self.close_reason is not None
        self._deliver(self.close_reason)

    def resolve(self, now: float) -> None:
        """Deliver the outcome: all rows have ended."""
        if self.timer is not None:
            self.timer.cancel()
        error = self.error
        if error is None and self.claimed < self.rows:
            error = self.close_reason
        if error is not None:
            self._deliver(error)
            return
        self._deliver(
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
                self.prepared.sizes,
            )
        )

    def _deliver(self, outcome: Outcome) -> None:
        if self.is_resolved:
            return
        self.is_resolved = True
        try:
            self.on_done(outcome)
        except Exception:  # other requests' answers must not depend on it
            _log.exception("an outcome could not be delivered")
