"""The requests in flight in one arena: who owns which row, and what has come back.

Runs in the front-end. A request's rows go into the arena in pieces, each within one segment; a
piece is copied out as its rows end, and no request holds slots while it waits for more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from server.batching import Range
from server.errors import MemberFailed, RequestError
from server.slots import SlotAllocator
from workers.arena import Arena
from workers.messages import Ended
from workers.spec import EnsembleSpec

__all__ = ["Answer", "InFlight", "Piece", "Request", "ServedModel", "StoredInput"]


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


class Answer(msgspec.Struct, frozen=True):
    """What the ensemble says of a request's rows.

    Attributes:
        values: the combined output, row-major, of the model's output type.
        rows: how many.
        used: mask of the members that every row's answer rests on.
        degraded: whether that is fewer than the ensemble's members.
    """

    values: bytes | bytearray
    rows: int
    used: int
    degraded: bool


class Request(msgspec.Struct, eq=False):
    """A request between its acceptance and its one terminal answer."""

    model: ServedModel
    inputs: Sequence[StoredInput]
    rows: int
    expected: int
    future: asyncio.Future[Answer]
    accepted: float
    on_slow: Callable[[Request], None] | None = None
    timer: asyncio.TimerHandle | None = None
    pieces: list[Piece] | None = None
    claimed: int = 0
    settled: int = 0
    used: int = -1
    values: bytes | bytearray = b""
    close_reason: RequestError | None = None
    error: RequestError | None = None

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

    def resolve(self) -> None:
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
        else:
            degraded = self.used != self.model.spec.mask
            self.future.set_result(Answer(self.values, self.rows, self.used, degraded))


class Piece(msgspec.Struct, frozen=True, eq=False):
    """Adjacent rows [start, stop) of one request; `start` is the request's `offset`-th row."""

    request: Request
    start: int
    stop: int
    offset: int


class InFlight:
    """The front-end's side of one arena.

    Attributes:
        waiting: requests that have rows to claim, in their order; served in turn.
    """

    def __init__(self, arena: Arena) -> None:
        spec = arena.spec
        generation = arena.last_row() // arena.capacity + 1
        self.arena = arena
        self.waiting: deque[Request] = deque()
        self.slots = SlotAllocator(spec.segments, spec.segment_rows, generation)
        # Cell by cell: quicker for a lone row than arrays of one element.
        self._row, self._ensemble = arena.row.data, arena.ensemble.data
        self._expected = arena.expected.data
        self._owners: list[Piece | None] = [None] * arena.capacity

    def place(self, request: Request) -> Range | None:
        """Claim slots for (more of) a request and write its inputs; None if the arena is full.

        The rows are complete in the arena when this returns, before any message names them.
        """
        span = self.slots.claim(request.rows - request.claimed)
        if span is None:
            return None
        start, stop = span
        offset, count = request.claimed, stop - start
        arena, slots = self.arena, self.arena.slots(start, stop)
        if count == 1:
            slot = slots.start
            for view, rows in request.inputs:
                arena.views[view][slot] = rows[offset]
            self._ensemble[slot] = request.model.ensemble
            self._expected[slot] = request.expected
            self._row[slot] = start
        else:
            for view, rows in request.inputs:
                arena.views[view][slots] = rows[offset : offset + count]
            arena.ensemble[slots] = request.model.ensemble
            arena.expected[slots] = request.expected
            arena.row[slots] = arena.numbers(start, stop)
        piece = Piece(request, start, stop, offset)
        self._owners[slots] = [piece] * count
        if request.pieces is None:
            request.pieces = [piece]
        else:
            request.pieces.append(piece)
        request.claimed += count
        return span

    def settle(self, ended: Ended) -> list[tuple[Request, Range, bool]]:
        """Take in that rows have ended: copy answers out, note failures.

        Returns the requests concerned, which of their rows ended, and whether every member they
        waited for had settled these rows (if not, a worker may still hold them).
        """
        settled: list[tuple[Request, Range, bool]] = []
        position, slot = ended.start, ended.start % self.arena.capacity
        first = position - slot
        values = b""
        while position < ended.stop:
            piece = self._owners[position - first]
            if piece is None or not piece.start <= position < piece.stop:
                position += 1  # told twice, or of a row that is gone
                continue
            request = piece.request
            stop = min(ended.stop, piece.stop)
            if not ended.answered:
                request.error = (
                    request.error or request.close_reason or self._failure(request, ended)
                )
            else:
                values = values or self.arena.answer_bytes(
                    request.model.spec, ended.start, ended.stop
                )
                request.used &= ended.used
                size = request.model.spec.output.row_bytes
                request.take(
                    piece.offset + position - piece.start,
                    values[(position - ended.start) * size : (stop - ended.start) * size],
                )
            self._owners[position - first : stop - first] = [None] * (stop - position)
            request.settled += stop - position
            complete = ended.answered and ended.used == request.expected
            settled.append((request, (position, stop), complete))
            position = stop
        return settled

    def _failure(self, request: Request, ended: Ended) -> RequestError:
        if ended.error:
            return MemberFailed(ended.error)
        arena = self.arena
        done = arena.done[:, arena.slots(ended.start, ended.stop)]
        failed = (done == -arena.numbers(ended.start, ended.stop)).any(axis=1)
        names = [
            repr(arena.spec.members[member])
            for member in request.model.spec.members
            if failed[member]
        ]
        return MemberFailed(f"member {', '.join(names)} failed on this input")

    def close(self, request: Request) -> list[Range]:
        """Mark what a request still has in the arena as to be closed, and return it.

        It claims no more; its rows stay claimed until the combiner has ended them.
        """
        if request in self.waiting:
            self.waiting.remove(request)
        ranges: list[Range] = []
        for piece in request.pieces or ():
            start = piece.start
            while start < piece.stop:
                owned = self._owners[start % self.arena.capacity] is piece
                stop = start + 1
                while stop < piece.stop and owned == (
                    self._owners[stop % self.arena.capacity] is piece
                ):
                    stop += 1
                if owned:
                    self.arena.closing[self.arena.slots(start, stop)] = self.arena.numbers(
                        start, stop
                    )
                    ranges.append((start, stop))
                start = stop
        return ranges

    def unsettled_ends(self) -> list[Ended]:
        """Rows that have ended in the arena although nobody said so (a message was lost)."""
        arena = self.arena
        told = [piece is not None for piece in self._owners]
        lost = np.flatnonzero(np.array(told) & (np.abs(arena.ended) == arena.row))
        return [
            Ended(
                arena=-1,
                start=int(arena.row[slot]),
                stop=int(arena.row[slot]) + 1,
                used=int(arena.used[slot]),
                answered=bool(arena.ended[slot] > 0),
            )
            for slot in lost
        ]

    def reset(self) -> None:
        """Forget every row of a former front-end: all its clients are gone."""
        self.arena.row[:] = 0
