"""Ends the rows of an arena that are ready: with an answer or a failure, or defers them.

Runs in the combiner, which alone ends a row, exactly once. A row is ready when all expected members
are done with it or the front-end has closed it: it ends with an answer if a quorum has predicted
it, else with a failure. A row of a cascade whose answer is not confident enough is deferred, and
the front-end has the next stage predict it. A row of which only the best class is wanted ends as
soon as that is certain. A restart loses nothing but the error messages of failed members.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np

from workers.combiner.ensemble import EnsembleCombiner, RuleFailed
from workers.combiner.rule_guard import RuleGuard, guarded_rules, rule_code
from workers.runtime.arena import EARLY, Arena, Array, Cells, Terms, unpack
from workers.runtime.memory import BoardRow
from workers.runtime.messages import Deferred, Ended
from workers.runtime.spec import PausedRule, symbols_of

__all__ = ["ArenaCombiner", "Outcome"]

_log = logging.getLogger(__name__)

Outcome = Ended | Deferred
#: A rule that fails under load fails thousands of times a second.
_LOG_INTERVAL_S = 5.0


class ArenaCombiner:
    """Ends, or defers, the rows of one arena; custom rules are announced on `board`, if any."""

    def __init__(
        self,
        arena: Arena,
        board: BoardRow | None = None,
        paused: Sequence[PausedRule] = (),
    ) -> None:
        self._index = arena.spec.index
        self._arena = arena
        pauses = {pause.rules: pause for pause in paused}
        self._ensembles = [
            EnsembleCombiner(
                arena,
                spec,
                RuleGuard(board, code) if board is not None else None,
                pauses.get(guarded_rules(spec)) if pauses else None,
            )
            for number, spec in enumerate(arena.spec.ensembles)
            for code in [rule_code(arena.spec.index, number)]
        ]
        self._bits = arena.bits
        #: What sizes outputs have: rows are combined together if these are equal.
        self._shaping = [
            arena.spec.symbols.index(symbol)
            for symbol in symbols_of(
                [one.tensor for spec in arena.spec.ensembles for one in spec.predictions]
            )
        ]
        self._errors: dict[int, str] = {}
        self._next_log = 0.0
        self._row, self._ended = arena.row.data, arena.ended.data
        self._expected, self._closing = arena.expected.data, arena.closing.data
        self._terms, self._ensemble = arena.terms.data, arena.ensemble.data
        self._done = arena.done.data

    @property
    def load_errors(self) -> list[str]:
        """Why some rules can't be used, with their names."""
        return [error for ensemble in self._ensembles for error in ensemble.load_errors]

    def close(self) -> None:
        """Release what the rules hold; no rows can be ended afterwards."""
        for ensemble in self._ensembles:
            ensemble.close()

    def evaluate(self, start: int, stop: int, error: str = "") -> list[Outcome]:
        """End, or defer, the rows of [start, stop), within one segment, that are ready.

        `error` is that of a member that failed on them, for the text of a failure.
        """
        if error:
            self._store_error(start, stop, error)
        if stop - start == 1:
            return self._end_row(start)
        return self._end(self._arena.slots(start, stop), self._arena.row_numbers(start, stop))

    def _store_error(self, start: int, stop: int, error: str) -> None:
        """Keep a member's error until the rows end; a restart loses the text, not the failure."""
        rows = self._arena.row_numbers(start, stop)
        slots = self._arena.slots(start, stop)
        failed = (self._arena.done[:, slots] == -rows).any(axis=0)
        failed &= np.abs(self._arena.ended[slots]) != rows  # otherwise it is too late
        for row in rows[failed].tolist():
            self._errors.setdefault(row, error)

    def scan(self) -> list[Outcome]:
        """End, or defer, all rows of the arena that are ready, segment by segment."""
        arena, size = self._arena, self._arena.spec.segment_rows
        outcomes: list[Outcome] = []
        unended = (arena.row != 0) & (np.abs(arena.ended) != arena.row)
        for segment in np.unique(np.flatnonzero(unended) // size):
            slots = slice(int(segment) * size, (int(segment) + 1) * size)
            outcomes += self._end(slots, arena.row[slots].copy())
        return outcomes

    # The front-end advances a row to the next stage of a cascade by adding members to `expected`,
    # and updates `terms` only then. Since `terms` are read before `expected` here, a row is taken
    # for one of the stage before at worst, and the front-end ignores that.

    def _end_row(self, row: int) -> list[Outcome]:
        """Do what `_end` does for a single row, cell by cell: faster than arrays of one element."""
        arena = self._arena
        slot = row % arena.capacity
        if self._row[slot] != row or self._ended[slot] in (row, -row):
            return []
        terms = unpack(self._terms[slot])
        expected = self._expected[slot]
        closing = self._closing[slot] == row
        ensemble = self._ensembles[self._ensemble[slot]]
        may_end = closing or terms.early
        used = missing = absent = 0
        for member in ensemble.spec.members:
            done = self._done[member, slot]
            if not expected >> member & 1:
                continue
            if done == row:
                used |= 1 << member
                continue
            absent |= 1 << member
            if done != -row:
                missing |= 1 << member
                if not may_end:
                    return []  # the usual case: other members are still to come
        is_open = bool(missing) and not closing
        if is_open and not ensemble.are_certain(slice(slot, slot + 1), used, absent)[0]:
            return []
        rows = np.array([row], np.int64)
        return self._end_run(slot, rows, used, terms, certain=is_open, may_defer=not closing)

    def _end(self, slots: slice, rows: Cells) -> list[Outcome]:
        arena = self._arena
        terms = arena.terms[slots].copy()
        expected = arena.expected[slots].copy()
        done = arena.done[:, slots]
        is_done = np.bitwise_or.reduce(self._bits * (np.abs(done) == rows), axis=0)
        missing = expected & ~is_done
        closing = arena.closing[slots] == rows
        early = (terms & EARLY) != 0
        ready = (missing == 0) | closing
        if not (ready | early).any():
            return []  # the usual case: other members are still to come
        mine = (arena.row[slots] == rows) & (np.abs(arena.ended[slots]) != rows) & (rows != 0)
        ready &= mine
        early &= mine & ~ready
        used = expected & np.bitwise_or.reduce(self._bits * (done == rows), axis=0)
        sizes = [arena.dims[symbol, slots] for symbol in self._shaping]
        alike = (rows, arena.ensemble[slots], terms, closing, used, missing, *sizes)
        if early.any():
            self._mark_certain(slots.start, early, (*alike, expected), ready)
        outcomes: list[Outcome] = []
        for first, last in _runs(ready, *alike):
            outcomes += self._end_run(
                slots.start + first,
                rows[first:last],
                int(used[first]),
                unpack(int(terms[first])),
                certain=bool(missing[first]) and not closing[first],
                may_defer=not closing[first],
            )
        return outcomes

    def _mark_certain(
        self, first_slot: int, early: Array, alike: tuple[Array, ...], ready: Array
    ) -> None:
        """Mark rows as ready whose best class is certain before all members are done.

        A failed member counts like a missing one: its prediction is unknown.
        """
        _, ensembles, _, _, used, *_, expected = alike
        for first, last in _runs(early, *alike):
            slots = slice(first_slot + first, first_slot + last)
            ready[first:last] = self._ensembles[int(ensembles[first])].are_certain(
                slots, int(used[first]), int(expected[first] & ~used[first])
            )

    def _end_run(
        self,
        first: int,
        rows: Cells,
        used: int,
        terms: Terms,
        *,
        certain: bool = False,
        may_defer: bool = False,
    ) -> list[Outcome]:
        """End, or defer, adjacent rows, from slot `first` on, with equal ensemble and members.

        They are `certain` if only their best class is wanted and no missing member can change it;
        they `may_defer` if a later stage of a cascade may still predict them.
        """
        arena, slots = self._arena, slice(first, first + len(rows))
        ensemble = self._ensembles[int(arena.ensemble[first])]
        answered = certain or used.bit_count() >= terms.quorum
        may_defer = may_defer and 0 < terms.stage < len(ensemble.spec.stages)
        if may_defer and not answered:
            return [self._deferred(rows, terms)]
        error = ""
        if answered:
            try:
                ensemble.combine(slots, used)
                if may_defer:
                    confident = ensemble.are_confident(slots, terms.stage)
                    if not confident.all():
                        return self._split(first, rows, used, terms, confident)
                if terms.scores:
                    ensemble.score(slots, used)
                if terms.outputs:
                    ensemble.combine_others(slots, used)
            except Exception as exception:
                if len(rows) > 1:  # other clients' rows need not fail as well
                    half = len(rows) // 2
                    state = {"certain": certain, "may_defer": may_defer}
                    return [
                        *self._end_run(first, rows[:half], used, terms, **state),
                        *self._end_run(first + half, rows[half:], used, terms, **state),
                    ]
                answered, error = False, self._log_failure(ensemble, exception)
        arena.used[slots] = used
        arena.ended[slots] = rows if answered else -rows
        start, stop = int(rows[0]), int(rows[-1]) + 1
        member_error = self._pop_error(rows)
        if not answered:
            error = error or member_error
        return [Ended(self._index, start, stop, used, answered, error, certain)]

    def _log_failure(self, ensemble: EnsembleCombiner, exception: Exception) -> str:
        """Log the exception that is being handled, unless one was logged recently; return it."""
        rule = exception.rule if isinstance(exception, RuleFailed) else ensemble.spec.rule
        now = time.monotonic()
        if now >= self._next_log:
            self._next_log = now + _LOG_INTERVAL_S
            _log.exception("rule %s of %s failed", rule, ensemble.spec.name)
        return f"rule {rule}: {exception}"

    def _split(
        self, first: int, rows: Cells, used: int, terms: Terms, confident: Array
    ) -> list[Outcome]:
        """End the rows that are confident enough, and defer the others."""
        outcomes: list[Outcome] = []
        for start, stop in _runs(confident, rows):
            outcomes += self._end_run(first + start, rows[start:stop], used, terms)
        for start, stop in _runs(np.logical_not(confident), rows):
            outcomes.append(self._deferred(rows[start:stop], terms))
        return outcomes

    def _deferred(self, rows: Cells, terms: Terms) -> Deferred:
        return Deferred(self._index, int(rows[0]), int(rows[-1]) + 1, terms.stage)

    def _pop_error(self, rows: Cells) -> str:
        """Remove the members' errors on rows that are about to end, and return one of them."""
        if not self._errors:
            return ""
        errors = [self._errors.pop(row) for row in rows.tolist() if row in self._errors]
        return errors[0] if errors else ""


def _runs(ready: Array, *same: Array) -> list[tuple[int, int]]:
    """Return the runs [first, last) of ready rows with consecutive numbers, otherwise equal.

    `ready` is bool [rows]; `same` are row numbers, then values that are equal throughout a run.
    """
    if not ready.any():
        return []
    rows, *equal = same
    if len(rows) == 1:
        return [(0, 1)]
    breaks = (ready[1:] != ready[:-1]) | (np.diff(rows) != 1)
    for array in equal:
        breaks |= array[1:] != array[:-1]
    edges = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(rows)]
    return [
        (first, last) for first, last in zip(edges[:-1], edges[1:], strict=True) if ready[first]
    ]
