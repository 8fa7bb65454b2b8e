"""The combiner process: sees in the arena which rows are complete and applies the ensemble's rule.

In: `Predicted` from the workers, `Close` and `Reset` from the front-end. Out: `Combined`.
It alone ends a row, exactly once: with an answer if a quorum of the expected members is there when
all of them have settled it or the front-end has closed it, else with a failure. It keeps nothing
that a restart would lose: a new combiner scans the arena and carries on, and the same scan, four
times a second, finds whatever a lost message should have told it.
"""

from __future__ import annotations

import logging
import time
from typing import Any, BinaryIO

import numpy as np
import zmq

from workers.arena import Arena, Array, Cells, quorum_of, wants_scores
from workers.bootstrap import Started, Status, end_with_supervisor, run_role
from workers.channels import COMBINER, FRONT_END, Decoder, open_socket, wait_receive
from workers.memory import SharedMemory
from workers.messages import (
    Close,
    Combined,
    CombinerHello,
    Ended,
    Predicted,
    Reset,
    ToCombiner,
    encode,
)
from workers.predictions import Where, predictions_of
from workers.rules import Applied, Combination, RuleError, combination
from workers.scores import score
from workers.spec import CombinerSpec, EnsembleSpec

__all__ = ["ArenaCombiner", "main"]

_log = logging.getLogger(__name__)
_SCAN_MS = 250


class _Ensemble:
    """An ensemble's rule, ready to be applied to rows of its arena."""

    def __init__(self, arena: Arena, spec: EnsembleSpec) -> None:
        self.spec = spec
        self._answers: Any = arena.answers(spec)
        self._scores = arena.scores
        self._members = predictions_of(arena, spec)
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


class ArenaCombiner:
    """Ends the rows of one arena."""

    def __init__(self, index: int, arena: Arena) -> None:
        self._index = index
        self._arena = arena
        self._ensembles = [_Ensemble(arena, spec) for spec in arena.spec.ensembles]
        members = len(arena.spec.members)
        self._bits = (np.uint64(1) << np.arange(members, dtype=np.uint64))[:, np.newaxis]
        self._reasons: dict[int, str] = {}
        self._row, self._ended = arena.row.data, arena.ended.data
        self._expected, self._closing = arena.expected.data, arena.closing.data
        self._done = arena.done.data

    def evaluate(self, start: int, stop: int, error: str = "") -> list[Ended]:
        """End the rows of [start, stop) that are ready for it.

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

    def scan(self) -> list[Ended]:
        """End whatever is ready in the whole arena, segment by segment."""
        arena, size = self._arena, self._arena.spec.segment_rows
        ended: list[Ended] = []
        unended = (arena.row != 0) & (np.abs(arena.ended) != arena.row)
        for segment in np.unique(np.flatnonzero(unended) // size):
            slots = slice(int(segment) * size, (int(segment) + 1) * size)
            ended += self._end(slots, arena.row[slots].copy())
        return ended

    def _end_row(self, row: int) -> list[Ended]:
        """`_end` for a lone row, cell by cell: that is quicker than arrays of one element."""
        arena = self._arena
        slot = row % arena.capacity
        if self._row[slot] != row or self._ended[slot] in (row, -row):
            return []
        predicted = failed = 0
        for member in range(len(arena.spec.members)):
            done = self._done[member, slot]
            predicted |= (done == row) << member
            failed |= (done == -row) << member
        expected = self._expected[slot]
        if expected & ~(predicted | failed) and self._closing[slot] != row:
            return []
        rows = np.array([row], np.int64)
        return [self._end_run(slot, rows, predicted & expected)]

    def _end(self, slots: slice, rows: Cells) -> list[Ended]:
        arena = self._arena
        done = arena.done[:, slots]
        predicted = np.bitwise_or.reduce(self._bits * (done == rows), axis=0)
        failed = np.bitwise_or.reduce(self._bits * (done == -rows), axis=0)
        expected = arena.expected[slots]
        settled = (expected & ~(predicted | failed)) == 0
        ready = (
            (arena.row[slots] == rows)
            & (np.abs(arena.ended[slots]) != rows)
            & (rows != 0)
            & (settled | (arena.closing[slots] == rows))
        )
        used = predicted & expected
        return [
            self._end_run(slots.start + first, rows[first:last], int(used[first]))
            for first, last in _runs(ready, rows, arena.ensemble[slots], arena.terms[slots], used)
        ]

    def _end_run(self, first: int, rows: Cells, used: int) -> Ended:
        """End adjacent rows of one ensemble that rest on the same members."""
        arena, slots = self._arena, slice(first, first + len(rows))
        ensemble = self._ensembles[int(arena.ensemble[first])]
        terms = int(arena.terms[first])
        answered = used.bit_count() >= quorum_of(terms)
        error = self._reason(rows)
        if answered:
            try:
                ensemble.combine(slots, used)
                if wants_scores(terms):
                    ensemble.score(slots, used)
            except Exception as exception:
                _log.exception("rule %s of %s failed", ensemble.spec.rule, ensemble.spec.name)
                answered, error = False, f"rule {ensemble.spec.rule}: {exception}"
        arena.used[slots] = used
        arena.ended[slots] = rows if answered else -rows
        start = int(rows[0])
        return Ended(
            self._index, start, start + len(rows), used, answered, "" if answered else error
        )

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
                self._tell([ended for arena in self._arenas for ended in arena.scan()])

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
        ended: list[Ended] = []
        for (arena, start, stop), error in ranges.items():
            ended += self._arenas[arena].evaluate(start, stop, error)
        self._tell(ended)

    def _tell(self, ended: list[Ended]) -> None:
        if ended:
            self._front_end.send(encode(Combined(tuple(ended))))


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
