"""The combiner process: sees in the arena which rows are complete and applies the ensemble's rule.

In: `Predicted` from the workers, `Close` and `Reset` from the front-end. Out: `Combined` and
`Deferred`. It alone ends a row, exactly once: with an answer if a quorum of the expected members is
there when all of them have settled it or the front-end has closed it, else with a failure. A row of
a cascade whose answer is not sure enough is deferred instead: the front-end lets the next stage
predict it. A row of which only the best class is wanted ends as soon as that is certain. It keeps
nothing
that a restart would lose: a new combiner scans the arena and carries on, and the same scan, four
times a second, finds whatever a lost message should have told it.
"""

from __future__ import annotations

import logging
import time
from typing import Any, BinaryIO

import numpy as np
import zmq

from workers.arena import Arena, Array, Cells
from workers.bootstrap import Started, Status, end_with_supervisor, run_role
from workers.certainty import EARLY_RULES, is_certain
from workers.channels import COMBINER, FRONT_END, Decoder, open_socket, wait_receive
from workers.memory import SharedMemory
from workers.messages import (
    Close,
    Combined,
    CombinerHello,
    Deferred,
    Ended,
    Predicted,
    Reset,
    ToCombiner,
    Unsure,
    encode,
)
from workers.predictions import Where, predictions_of
from workers.rules import Applied, Combination, RuleError, combination
from workers.scores import score
from workers.spec import CombinerSpec, EnsembleSpec
from workers.terms import EARLY, Terms, unpack

__all__ = ["ArenaCombiner", "main"]

_log = logging.getLogger(__name__)

Outcome = Ended | Deferred
_SCAN_MS = 250


class _Ensemble:
    """An ensemble's rule, ready to be applied to rows of its arena."""

    def __init__(self, arena: Arena, spec: EnsembleSpec) -> None:
        self.spec = spec
        self._answers: Any = arena.answers(spec)
        self._scores = arena.scores
        self._members = predictions_of(arena, spec)
        self._weights = np.array(spec.weights or (1.0,) * len(spec.members))
        self._rule, self._broken = self._make_rule(arena)
        self._selections: dict[int, tuple[Where, Applied | None]] = {}

    def _make_rule(self, arena: Arena) -> tuple[Combination | None, str]:
        """The rule; or None and why not, which fails this ensemble's rows and no others."""
        try:
            names = [arena.spec.members[member] for member in self.spec.members]
            return combination(self.spec, names), ""
        except RuleError as error:
            _log.error("rule %s of %s can't be used: %s", self.spec.rule, self.spec.name, error)
            return None, str(error)

    def _select(self, used: int) -> tuple[Where, Applied | None]:
        """Where the `used` members' predictions are, and the rule for them if it can do with them.

        It is found once: these members come again.
        """
        selection = self._selections.get(used)
        if selection is None:
            chosen = [i for i, member in enumerate(self.spec.members) if used >> member & 1]
            where, applied = self._members.where(chosen), None
            if self._rule is not None:
                applied = self._rule.over(chosen)
            selection = self._selections[used] = where, applied
        return selection

    def combine(self, slots: slice, used: int) -> None:
        """Write the answers of `slots` from the predictions of the `used` members.

        Raises:
            RuleError: if the rule failed; others may come out of it as well.
        """
        where, applied = self._select(used)
        if applied is None:
            raise RuleError(self._broken)
        applied(self._members.take(where, slots), self._answers[slots])

    def score(self, slots: slice, used: int) -> None:
        """Write how much the `used` members agree on `slots`."""
        where, _ = self._select(used)
        score(self._members.take(where, slots), self.spec.scores, self._scores[slots])

    def are_certain(self, slots: slice, present: int, missing: int) -> Array:
        """Whether no missing member can change the best class of `slots`, bool [rows]."""
        if self.spec.rule not in EARLY_RULES or not present:
            return np.zeros(slots.stop - slots.start, np.bool_)
        where, _ = self._select(present)
        predictions = self._members.take(where, slots)
        missing_weight = float(self._weights_of(missing).sum())
        return is_certain(self.spec.rule, predictions, self._weights_of(present), missing_weight)

    def _weights_of(self, members: int) -> Array:
        return self._weights[[members >> member & 1 == 1 for member in self.spec.members]]

    def are_sure(self, slots: slice, stage: int) -> Array:
        """Whether the answers of `slots` are sure enough to leave a cascade, bool [rows]."""
        return np.asarray(self._answers[slots].max(axis=-1) >= self.spec.thresholds[stage - 1])


class ArenaCombiner:
    """Ends, or defers, the rows of one arena."""

    def __init__(self, index: int, arena: Arena) -> None:
        self._index = index
        self._arena = arena
        self._ensembles = [_Ensemble(arena, spec) for spec in arena.spec.ensembles]
        members = len(arena.spec.members)
        self._bits = (np.uint64(1) << np.arange(members, dtype=np.uint64))[:, np.newaxis]
        self._reasons: dict[int, str] = {}
        self._row, self._ended = arena.row.data, arena.ended.data
        self._expected, self._closing = arena.expected.data, arena.closing.data
        self._terms, self._ensemble = arena.terms.data, arena.ensemble.data
        self._done = arena.done.data

    def evaluate(self, start: int, stop: int, error: str = "") -> list[Outcome]:
        """End, or defer, the rows of [start, stop) that are ready for it.

        Args:
            start: first row of a range within one segment.
            stop: one past its last row.
            error: what a member said when it failed on these rows, for the failure's text.
        """
        if error:
            self._remember(start, stop, error)
        if stop - start == 1:
            return self._end_row(start)
        return self._end(self._arena.slots(start, stop), self._arena.numbers(start, stop))

    def _remember(self, start: int, stop: int, error: str) -> None:
        """Keep what a member said until the row ends; a restart loses the words, not the fact."""
        rows = self._arena.numbers(start, stop)
        failed = (self._arena.done[:, self._arena.slots(start, stop)] == -rows).any(axis=0)
        for row in rows[failed].tolist():
            self._reasons.setdefault(row, error)

    def scan(self) -> list[Outcome]:
        """End, or defer, whatever is ready in the whole arena, segment by segment."""
        arena, size = self._arena, self._arena.spec.segment_rows
        outcomes: list[Outcome] = []
        unended = (arena.row != 0) & (np.abs(arena.ended) != arena.row)
        for segment in np.unique(np.flatnonzero(unended) // size):
            slots = slice(int(segment) * size, (int(segment) + 1) * size)
            outcomes += self._end(slots, arena.row[slots].copy())
        return outcomes

    # The front-end lets a later stage of a cascade predict a row by adding to `expected`, and only
    # then says so in `terms`. So `terms` are read before `expected`: a row is taken for one of a
    # former stage at worst, which the front-end knows better.

    def _end_row(self, row: int) -> list[Outcome]:
        """`_end` for a lone row, cell by cell: that is quicker than arrays of one element."""
        arena = self._arena
        slot = row % arena.capacity
        if self._row[slot] != row or self._ended[slot] in (row, -row):
            return []
        terms = unpack(self._terms[slot])
        expected = self._expected[slot]
        predicted = failed = 0
        for member in range(len(arena.spec.members)):
            done = self._done[member, slot]
            predicted |= (done == row) << member
            failed |= (done == -row) << member
        used, missing = predicted & expected, expected & ~(predicted | failed)
        closing = self._closing[slot] == row
        is_open = bool(missing) and not closing
        if is_open:
            if not terms.early:
                return []
            ensemble = self._ensembles[self._ensemble[slot]]
            if not ensemble.are_certain(slice(slot, slot + 1), used, missing)[0]:
                return []
        rows = np.array([row], np.int64)
        return self._end_run(slot, rows, used, terms, certain=is_open, may_defer=not closing)

    def _end(self, slots: slice, rows: Cells) -> list[Outcome]:
        arena = self._arena
        terms = arena.terms[slots].copy()
        expected = arena.expected[slots].copy()
        done = arena.done[:, slots]
        predicted = np.bitwise_or.reduce(self._bits * (done == rows), axis=0)
        failed = np.bitwise_or.reduce(self._bits * (done == -rows), axis=0)
        missing = expected & ~(predicted | failed)
        used = predicted & expected
        closing = arena.closing[slots] == rows
        mine = (arena.row[slots] == rows) & (np.abs(arena.ended[slots]) != rows) & (rows != 0)
        ready = mine & ((missing == 0) | closing)
        alike = (rows, arena.ensemble[slots], terms, closing, used, missing)
        if (early := mine & ~ready & ((terms & EARLY) != 0)).any():
            self._mark_certain(slots.start, early, alike, ready)
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
        """Count those rows as ready whose best class is certain before all members are there."""
        _, ensembles, _, _, used, missing = alike
        for first, last in _runs(early, *alike):
            slots = slice(first_slot + first, first_slot + last)
            ready[first:last] = self._ensembles[int(ensembles[first])].are_certain(
                slots, int(used[first]), int(missing[first])
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
        """End, or defer, adjacent rows of one ensemble that rest on the same members.

        Args:
            first: slot of the first one.
            rows: their numbers.
            used: mask of the members.
            terms: of all of them.
            certain: no other member can change their best class, which is all that is wanted.
            may_defer: whether a later stage of a cascade may still be asked.
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
                    sure = ensemble.are_sure(slots, terms.stage)
                    if not sure.all():
                        return self._divide(first, rows, used, terms, sure)
                if terms.scores:
                    ensemble.score(slots, used)
            except Exception as exception:
                _log.exception("rule %s of %s failed", ensemble.spec.rule, ensemble.spec.name)
                answered, error = False, f"rule {ensemble.spec.rule}: {exception}"
        arena.used[slots] = used
        arena.ended[slots] = rows if answered else -rows
        start, stop = int(rows[0]), int(rows[-1]) + 1
        reason = self._reason(rows)
        if not answered:
            error = error or reason
        return [Ended(self._index, start, stop, used, answered, error, certain)]

    def _divide(
        self, first: int, rows: Cells, used: int, terms: Terms, sure: Array
    ) -> list[Outcome]:
        """End the rows that are sure enough, and defer the others."""
        outcomes: list[Outcome] = []
        for unsure in (False, True):
            for start, stop in _runs(np.logical_not(sure) if unsure else sure, rows):
                if unsure:
                    outcomes.append(self._deferred(rows[start:stop], terms))
                else:
                    outcomes += self._end_run(first + start, rows[start:stop], used, terms)
        return outcomes

    def _deferred(self, rows: Cells, terms: Terms) -> Deferred:
        return Deferred(self._index, int(rows[0]), int(rows[-1]) + 1, terms.stage)

    def _reason(self, rows: Cells) -> str:
        """What members said of these rows, which are about to end; one of it, if several did."""
        if not self._reasons:
            return ""
        reasons = [self._reasons.pop(row) for row in rows.tolist() if row in self._reasons]
        return reasons[0] if reasons else ""


def _runs(ready: Array, *same: Array) -> list[tuple[int, int]]:
    """The runs [first, last) of ready rows with consecutive numbers, equal in all else.

    Args:
        ready: bool [rows].
        same: row numbers, then whatever must be equal throughout a run, each [rows].
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


class Combiner:
    """The process's loop."""

    def __init__(self, spec: CombinerSpec) -> None:
        memory = SharedMemory(spec.memory)
        self._board = memory.board("combiner")
        self._arenas = [
            ArenaCombiner(index, Arena(memory, arena))
            for index, arena in enumerate(spec.memory.arenas)
        ]
        self._inbox = open_socket(zmq.PULL, spec.sockets, COMBINER, bind=True)
        self._inbox.rcvtimeo = _SCAN_MS
        self._front_end = open_socket(zmq.PUSH, spec.sockets, FRONT_END, bind=False)
        self._decoder: Decoder[ToCombiner] = Decoder(ToCombiner)

    def run(self) -> None:
        """Serve until the supervisor lets go of the process."""
        self._front_end.send(encode(CombinerHello(epoch=0)))
        next_scan = 0.0
        while True:
            self._board.beat()
            self._handle(wait_receive(self._inbox, self._decoder))
            if time.monotonic() >= next_scan:
                next_scan = time.monotonic() + _SCAN_MS / 1000
                self._tell([outcome for arena in self._arenas for outcome in arena.scan()])

    def _handle(self, messages: list[ToCombiner]) -> None:
        ranges: dict[tuple[int, int, int], str] = {}
        for message in messages:
            match message:
                case Predicted():
                    for item in message.ranges:
                        key = (item.arena, item.start, item.stop)
                        ranges[key] = item.error or ranges.get(key, "")
                case Close():
                    ranges.setdefault((message.arena, message.start, message.stop), "")
                case Reset():
                    self._front_end.send(encode(CombinerHello(epoch=message.epoch)))
        outcomes: list[Outcome] = []
        for (arena, start, stop), error in ranges.items():
            outcomes += self._arenas[arena].evaluate(start, stop, error)
        self._tell(outcomes)

    def _tell(self, outcomes: list[Outcome]) -> None:
        ended = tuple(outcome for outcome in outcomes if isinstance(outcome, Ended))
        if ended:
            self._front_end.send(encode(Combined(ended)))
        if len(ended) < len(outcomes):
            deferred = tuple(outcome for outcome in outcomes if isinstance(outcome, Deferred))
            self._front_end.send(encode(Unsure(deferred)))


def _run(spec: CombinerSpec, commands: BinaryIO, status: Status) -> None:
    end_with_supervisor(commands)
    combiner = Combiner(spec)
    status.send(Started())
    combiner.run()


def main() -> None:
    """Entry point of the combiner process."""
    run_role(lambda _: "ensembled combiner", CombinerSpec, _run)


if __name__ == "__main__":
    main()
