"""The requests of one arena: which one owns which slot, what goes in, and what comes back.

Runs in the front-end. A request's rows are written to the arena in pieces, each within one segment;
a piece is copied out as its rows end, and no request holds slots while it waits for more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from allocator.dispatch.pending import Range
from server.engine.admission_queue import AdmissionQueue
from server.engine.cascade import move_on
from server.engine.request import Request, StoredInput, TraceHandle
from server.engine.slots import SlotAllocator
from server.engine.variable_rows import VariableRows
from server.errors import MemberFailed, RequestError, Unavailable
from workers.runtime.arena import Arena, unpack
from workers.runtime.messages import Deferred, Ended

__all__ = ["ArenaRequests"]

_NO_INPUTS: list[StoredInput] = []


class ArenaRequests:
    """The front-end's side of one arena."""

    def __init__(self, arena: Arena, queue: AdmissionQueue) -> None:
        spec = arena.spec
        generation = arena.last_row() // arena.capacity + 1
        self.arena = arena
        self.queue = queue
        self.slots = SlotAllocator(spec.segments, spec.segment_rows, generation)
        self._inputs = [
            (view.reshape(-1).view(np.uint8).data, view[:1].nbytes) for view in arena.views
        ]
        self._variable = VariableRows(arena) if spec.symbols else None
        # Cell by cell: quicker for a lone row than arrays of one element.
        self._row, self._ensemble = arena.row.data, arena.ensemble.data
        self._expected, self._terms = arena.expected.data, arena.terms.data
        self._started = [0.0] * arena.capacity
        self._owners: list[Request | None] = [None] * arena.capacity
        self._offsets = [0] * arena.capacity
        members = np.arange(len(spec.members), dtype=np.uint64)
        #: By model, how many rows ended at each stage of its cascade.
        self.ended_stages: defaultdict[str, list[int]] = defaultdict(list)
        self._bits = (np.uint64(1) << members)[:, np.newaxis]

    @property
    def is_used(self) -> bool:
        """Whether slots are claimed, or requests wait for some."""
        return bool(self.slots.held or self.queue.requests)

    def place(self, request: Request) -> Range | None:
        """Claim slots for (more of) a request, write its inputs; None if it gets no slot now.

        The rows are complete in the arena when this returns, before any message names them.
        """
        admission, offset = request.admission, request.claimed
        span = self.slots.claim(request.rows - offset, admission.flow, request.accepted)
        if span is None:
            return None
        start, stop = span
        count, slot = stop - start, start % self.arena.capacity
        if self._variable is not None:
            self._variable.write(request, slot, offset, count)
        else:
            for view, rows in request.inputs:
                stored, size = self._inputs[view]
                stored[slot * size : (slot + count) * size] = rows[
                    offset * size : (offset + count) * size
                ]
        if count == 1:
            self._ensemble[slot] = request.prepared.model.ensemble
            self._expected[slot] = admission.expected
            self._terms[slot] = admission.cell
            self._row[slot] = start
            self._owners[slot] = request
            self._offsets[slot] = offset
        else:
            arena, slots = self.arena, slice(slot, slot + count)
            arena.ensemble[slots] = request.prepared.model.ensemble
            arena.expected[slots] = admission.expected
            arena.terms[slots] = admission.cell
            arena.row[slots] = arena.row_numbers(start, stop)
            self._owners[slots] = [request] * count
            self._offsets[slots] = range(offset, offset + count)
        request.spans.append((start, stop, offset))
        request.claimed += count
        if request.claimed == request.rows:
            request.inputs = _NO_INPUTS  # all is in the arena: their buffers may be freed
        return span

    def start(self, ranges: Sequence[Range], now: float) -> None:
        """Note that rows were handed to a worker."""
        for start, stop in ranges:
            slot = start % self.arena.capacity
            self._started[slot : slot + stop - start] = [now] * (stop - start)

    def traces(self, ranges: Sequence[Range]) -> list[TraceHandle]:
        """The traces of the requests whose rows these are, each once."""
        owned = (request for span in ranges for request, _, _ in self._owned(*span))
        found = dict.fromkeys(request.trace for request in owned)
        return [trace for trace in found if trace is not None]

    def _owned(self, start: int, stop: int) -> Iterator[tuple[Request, int, int]]:
        """The requests that own rows of [start, stop), each with adjacent rows that it owns.

        A row that was reported twice, or is gone, has no owner.
        """
        owners, numbers = self._owners, self._row
        first = start - start % self.arena.capacity
        row = start
        while row < stop:
            owner = owners[row - first]
            if owner is None or numbers[row - first] != row:
                row += 1
                continue
            end = row + 1
            if owner.rows > 1:
                while end < stop and owners[end - first] is owner and numbers[end - first] == end:
                    end += 1
            yield owner, row, end
            row = end

    def defer(self, deferred: Deferred, available: int) -> list[tuple[Request, Range, int]]:
        """Move rows on to the next stage of their cascade.

        Returns the requests and ranges that moved on, with the mask of the members that are to
        predict them: 0 if none is left.
        """
        further: list[tuple[Request, Range, int]] = []
        for request, start, stop in self._owned(deferred.start, deferred.stop):
            ranges, mask = move_on(self.arena, request, (start, stop), deferred.stage, available)
            further += [(request, span, mask) for span in ranges]
        return further

    def collect(self, ended: Ended) -> list[tuple[Request, Range, bool]]:
        """Copy the answers of ended rows out, or note why they failed.

        Returns the requests concerned, which of their rows ended, and whether every member that
        they waited for has done these rows (if not, a worker may still hold them).
        """
        collected: list[tuple[Request, Range, bool]] = []
        first = ended.start - ended.start % self.arena.capacity
        values = b""
        for request, start, stop in self._owned(ended.start, ended.stop):
            slot = start - first
            expected = request.admission.expected
            if not ended.answered:
                request.error = (
                    request.error or request.close_reason or self._failure(request, ended)
                )
            else:
                spec = request.prepared.model.spec
                offset = self._offsets[slot]
                if spec.output.symbols:
                    request.store(offset, self._own_values(request, start, stop))
                else:
                    values = values or self.arena.answer_bytes(spec, ended.start, ended.stop)
                    size = spec.output.row_bytes
                    request.store(
                        offset, values[(start - ended.start) * size : (stop - ended.start) * size]
                    )
                if request.extras is not None:
                    slots = self.arena.slots(start, stop)
                    request.extras.store(offset, self.arena, slots, ended.used)
                requested = request.admission.requested
                if request.admission.terms.stage:
                    expected = self._expected[slot]
                    stage = unpack(self._terms[slot]).stage
                    requested = spec.stages[stage - 1]
                    self._count_stage(spec.name, len(spec.stages), stage, stop - start)
                    saved = request.admission.requested & ~requested
                    request.saved += saved.bit_count() * (stop - start)
                request.used &= ended.used
                request.short |= requested != (expected if ended.certain else ended.used)
            request.started = max(request.started, self._started[slot])
            self._owners[slot : slot + stop - start] = [None] * (stop - start)
            request.ended += stop - start
            complete = ended.answered and ended.used == expected
            collected.append((request, (start, stop), complete))
        return collected

    def _count_stage(self, model: str, stages: int, stage: int, rows: int) -> None:
        counts = self.ended_stages[model]
        counts += [0] * (stages - len(counts))
        counts[stage - 1] += rows

    def _own_values(self, request: Request, start: int, stop: int) -> bytes:
        """The answers of rows whose main output varies in size, row-major."""
        answers = self.arena.answers(request.prepared.model.spec)[self.arena.slots(start, stop)]
        inner = map(slice, request.prepared.output.stored_shape)
        return answers[(slice(None), *inner)].tobytes()

    def _failure(self, request: Request, ended: Ended) -> RequestError:
        if ended.error:
            return MemberFailed(ended.error)
        arena, slots = self.arena, self.arena.slots(ended.start, ended.stop)
        failed = (arena.done[:, slots] == -arena.row_numbers(ended.start, ended.stop)).any(axis=1)
        expected = int(np.bitwise_or.reduce(arena.expected[slots]))
        names = [
            repr(arena.spec.members[member])
            for member in request.model.spec.members
            if expected >> member & 1 and failed[member]
        ]
        if names:
            return MemberFailed(f"member {', '.join(names)} failed on this input")
        quorum = request.admission.quorum
        if expected.bit_count() < quorum:  # of a cascade whose later members are down
            return Unavailable(
                f"{request.model.public.name!r} can't meet its quorum of {quorum}: "
                f"only {expected.bit_count()} of its members are up"
            )
        return MemberFailed("what the members predicted could not be combined")

    def are_awaited(self, start: int, stop: int) -> bool:
        """Whether rows may be pending: not closed, and not done by some member that they expect."""
        arena, slots = self.arena, self.arena.slots(start, stop)
        rows = arena.row_numbers(start, stop)
        awaited = (arena.expected[slots] & self._bits) != 0
        awaited &= np.abs(arena.done[:, slots]) != rows
        return bool((awaited & (arena.closing[slots] != rows)).any())

    def close(self, request: Request) -> list[Range]:
        """Mark the rows that a request still has in the arena as closing, and return them.

        It claims no more; its rows stay claimed until the combiner has ended them.
        """
        self.queue.remove(request)
        ranges: list[Range] = []
        for first, last, _ in request.spans:
            for owner, start, stop in self._owned(first, last):
                if owner is request:
                    slots = self.arena.slots(start, stop)
                    self.arena.closing[slots] = self.arena.row_numbers(start, stop)
                    ranges.append((start, stop))
        return ranges

    def unreported_ends(self) -> list[Ended]:
        """Rows that have ended in the arena although no message says so: it was lost."""
        arena = self.arena
        owned = [owner is not None for owner in self._owners]
        lost = np.flatnonzero(np.array(owned) & (np.abs(arena.ended) == arena.row))
        return [self._end_of(int(slot)) for slot in lost]

    def _end_of(self, slot: int) -> Ended:
        """What the combiner has reported, or would have, of the ended row in a slot."""
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
