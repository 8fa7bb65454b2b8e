"""The requests in flight in one arena: who owns which row, and what has come back.

Runs in the front-end. A request's rows go into the arena in pieces, each within one segment; a
piece is copied out as its rows end, and no request holds slots while it waits for more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from server.errors import MemberFailed, RequestError, Unavailable
from server.gateway.accepted import Request
from server.gateway.batching import Range
from server.gateway.cascade import move_on
from server.gateway.slots import SlotAllocator
from server.gateway.waiting_room import WaitingRoom
from workers.arena import Arena
from workers.messages import Deferred, Ended
from workers.terms import unpack

if TYPE_CHECKING:
    from server.gateway.tracing import RequestTrace

__all__ = ["InFlight", "Piece"]


class Piece(msgspec.Struct, frozen=True, eq=False):
    """Adjacent rows [start, stop) of one request; `start` is the request's `offset`-th row."""

    request: Request
    start: int
    stop: int
    offset: int


class InFlight:
    """The front-end's side of one arena.

    Args:
        arena: its cells.
        room: where requests wait for space in it.
    """

    def __init__(self, arena: Arena, room: WaitingRoom) -> None:
        spec = arena.spec
        generation = arena.last_row() // arena.capacity + 1
        self.arena = arena
        self.room = room
        self.slots = SlotAllocator(spec.segments, spec.segment_rows, generation)
        # Cell by cell: quicker for a lone row than arrays of one element.
        self._row, self._ensemble = arena.row.data, arena.ensemble.data
        self._expected, self._terms = arena.expected.data, arena.terms.data
        self._started = [0.0] * arena.capacity
        self._owners: list[Piece | None] = [None] * arena.capacity
        members = np.arange(len(spec.members), dtype=np.uint64)
        self._bits = (np.uint64(1) << members)[:, np.newaxis]

    def place(self, request: Request) -> Range | None:
        """Claim slots for (more of) a request and write its inputs; None if it gets none now.

        The rows are complete in the arena when this returns, before any message names them.
        """
        span = self.slots.claim(request.rows - request.claimed, request.flow, request.accepted)
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
            self._terms[slot] = request.terms.pack()
            self._row[slot] = start
        else:
            for view, rows in request.inputs:
                arena.views[view][slots] = rows[offset : offset + count]
            arena.ensemble[slots] = request.model.ensemble
            arena.expected[slots] = request.expected
            arena.terms[slots] = request.terms.pack()
            arena.row[slots] = arena.numbers(start, stop)
        piece = Piece(request, start, stop, offset)
        self._owners[slots] = [piece] * count
        if request.pieces is None:
            request.pieces = [piece]
        else:
            request.pieces.append(piece)
        request.claimed += count
        return span

    def start(self, ranges: Sequence[Range], now: float) -> None:
        """Note that rows were handed to a worker."""
        for start, stop in ranges:
            slot = start % self.arena.capacity
            if stop - start == 1:
                self._started[slot] = now
            else:
                self._started[slot : slot + stop - start] = [now] * (stop - start)

    def traces(self, ranges: Sequence[Range]) -> list[RequestTrace]:
        """The traces of the requests whose rows these are, each once."""
        pieces = (piece for span in ranges for piece, _, _ in self._owned(*span))
        found = dict.fromkeys(piece.request.trace for piece in pieces)
        return [trace for trace in found if trace is not None]

    def _owned(self, start: int, stop: int) -> Iterator[tuple[Piece, int, int]]:
        """The pieces that own rows of [start, stop), each with the adjacent rows that it owns.

        A row that was told of twice, or is gone, is nobody's.
        """
        position, first = start, start - start % self.arena.capacity
        while position < stop:
            piece = self._owners[position - first]
            if piece is None or not piece.start <= position < piece.stop:
                position += 1
                continue
            end = min(stop, piece.stop)
            yield piece, position, end
            position = end

    def defer(self, deferred: Deferred, available: int) -> list[tuple[Request, Range, int]]:
        """Let the next stage of their cascade predict rows.

        Args:
            deferred: the rows, and the stage that they were at.
            available: mask of the members that are up.

        Returns:
            The requests and ranges that moved on, with the members that are to predict them: 0 if
            none is left.
        """
        further: list[tuple[Request, Range, int]] = []
        for piece, start, stop in self._owned(deferred.start, deferred.stop):
            ranges, mask = move_on(
                self.arena, piece.request, (start, stop), deferred.stage, available
            )
            further += [(piece.request, span, mask) for span in ranges]
        return further

    def settle(self, ended: Ended) -> list[tuple[Request, Range, bool]]:
        """Take in that rows have ended: copy answers out, note failures.

        Returns the requests concerned, which of their rows ended, and whether every member they
        waited for had settled these rows (if not, a worker may still hold them).
        """
        settled: list[tuple[Request, Range, bool]] = []
        first = ended.start - ended.start % self.arena.capacity
        values = b""
        for piece, position, stop in self._owned(ended.start, ended.stop):
            request = piece.request
            expected = request.expected
            if not ended.answered:
                request.error = (
                    request.error or request.close_reason or self._failure(request, ended)
                )
            else:
                values = values or self.arena.answer_bytes(
                    request.model.spec, ended.start, ended.stop
                )
                size = request.model.spec.output.row_bytes
                offset = piece.offset + position - piece.start
                request.take(
                    offset, values[(position - ended.start) * size : (stop - ended.start) * size]
                )
                if request.extras is not None:
                    slots = self.arena.slots(position, stop)
                    request.extras.take(offset, self.arena, slots, ended.used)
                asked = request.asked
                if request.terms.stage:
                    slot = position - first
                    expected = self._expected[slot]
                    asked = request.model.spec.stages[unpack(self._terms[slot]).stage - 1]
                    request.saved += (request.asked & ~asked).bit_count() * (stop - position)
                request.used &= ended.used
                request.short |= asked != (expected if ended.certain else ended.used)
            request.started = max(request.started, self._started[position - first])
            self._owners[position - first : stop - first] = [None] * (stop - position)
            request.settled += stop - position
            complete = ended.answered and ended.used == expected
            settled.append((request, (position, stop), complete))
        return settled

    def _failure(self, request: Request, ended: Ended) -> RequestError:
        if ended.error:
            return MemberFailed(ended.error)
        arena, slots = self.arena, self.arena.slots(ended.start, ended.stop)
        failed = (arena.done[:, slots] == -arena.numbers(ended.start, ended.stop)).any(axis=1)
        expected = int(np.bitwise_or.reduce(arena.expected[slots]))
        names = [
            repr(arena.spec.members[member])
            for member in request.model.spec.members
            if expected >> member & 1 and failed[member]
        ]
        if names:
            return MemberFailed(f"member {', '.join(names)} failed on this input")
        if expected.bit_count() < request.quorum:  # of a cascade whose later members are down
            return Unavailable(
                f"{request.model.name!r} can't meet its quorum of {request.quorum}: "
                f"only {expected.bit_count()} of its members are up"
            )
        return MemberFailed("what the members predicted could not be combined")

    def are_awaited(self, start: int, stop: int) -> bool:
        """Whether some rows were not closed, and some member that they expect has not settled them.

        So they may still be in its list.
        """
        arena, slots = self.arena, self.arena.slots(start, stop)
        rows = arena.numbers(start, stop)
        awaited = (arena.expected[slots] & self._bits) != 0
        awaited &= np.abs(arena.done[:, slots]) != rows
        return bool((awaited & (arena.closing[slots] != rows)).any())

    def close(self, request: Request) -> list[Range]:
        """Mark what a request still has in the arena as to be closed, and return it.

        It claims no more; its rows stay claimed until the combiner has ended them.
        """
        self.room.leave(request)
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
        return [self._end_of(int(slot)) for slot in lost]

    def _end_of(self, slot: int) -> Ended:
        """What the combiner has said, or would have, of the row in a slot, which has ended."""
        arena, row = self.arena, int(self.arena.row[slot])
        answered = bool(arena.ended[slot] > 0)
        may_be_early = answered and unpack(self._terms[slot]).early
        return Ended(
            arena=-1,
            start=row,
            stop=row + 1,
            used=int(arena.used[slot]),
            answered=answered,
            certain=may_be_early and self.are_awaited(row, row + 1),
        )

    def reset(self) -> None:
        """Forget every row of a former front-end: all its clients are gone."""
        self.arena.row[:] = 0
