"""What combining costs: ``python -m benchmarks.combining``.

An `ArenaCombiner` is driven as the combiner's process drives it, in this process: members finish
ranges of rows one after the other, each tells so, and the last one's word ends the rows. Only the
combiner's part is timed, by the clock on the wall; messages are not in it. The machine may be
shared, so each figure is the best of several rounds.
"""

from __future__ import annotations

import argparse
import json
import mmap
import time
from collections.abc import Sequence

import numpy as np

from workers.combiner.arena_combiner import ArenaCombiner
from workers.rules import RULES, TRAITS
from workers.runtime.arena import Arena, Terms, arena_bytes
from workers.runtime.spec import (
    COMBINED,
    ArenaSpec,
    BlockSpec,
    EnsembleSpec,
    PredictionSpec,
    RuleSpec,
    TensorSpec,
)

__all__ = ["main", "measure_s"]

_MEMBERS = 12
_SEGMENT_ROWS = 64
_SEGMENTS = 8
_TARGET_US = 25.0
_TARGET_ROWS_PER_S = 300_000.0


def measure_s(rule: str, *, classes: int, rows: int, rounds: int, members: int = _MEMBERS) -> float:
    """Return the seconds that one row takes a combiner, the least of all rounds.

    Args:
        rule: a built-in rule.
        classes: outputs of each member, FP32.
        rows: of a range, which divides 64; each may be a request of its own.
        rounds: how many; each goes once through the arena.
        members: how many predict each row.
    """
    arena = _arena(rule, members, classes)
    combiner = ArenaCombiner(arena)
    generator = np.random.default_rng(0)
    for area in arena.predictions:
        area[...] = generator.dirichlet(np.ones(classes), arena.capacity)
    taken = [_round_s(arena, combiner, number + 1, rows) for number in range(rounds)]
    return min(taken) / arena.capacity


def _round_s(arena: Arena, combiner: ArenaCombiner, number: int, rows: int) -> float:
    """Every slot once: claimed, predicted by all members, combined; seconds of the last part."""
    members = len(arena.spec.members)
    first = number * arena.capacity
    arena.expected[:] = (1 << members) - 1
    arena.terms[:] = Terms(quorum=members).pack()
    arena.row[:] = np.arange(first, first + arena.capacity)
    taken, answered = 0.0, 0
    for start in range(first, first + arena.capacity, rows):
        slots, numbers = arena.slots(start, start + rows), arena.row_numbers(start, start + rows)
        for member in range(members):
            arena.done[member, slots] = numbers
            started = time.perf_counter()
            outcomes = combiner.evaluate(start, start + rows)
            taken += time.perf_counter() - started
            answered += len(outcomes)
    assert answered == arena.capacity // rows, "each range ends once"
    return taken


def _arena(rule: str, members: int, classes: int) -> Arena:
    everybody = tuple(range(members))
    output = TensorSpec(COMBINED, "FP32", (classes,))
    weights = tuple(1.0 + member for member in everybody)
    ensemble = EnsembleSpec(
        name="measured",
        members=everybody,
        quorum=members,
        predictions=(PredictionSpec(output, everybody),),
        rules=(RuleSpec(rule, (0,), (output,), weights if TRAITS[rule].weights != "none" else ()),),
    )
    spec = ArenaSpec(
        offset=0,
        segments=_SEGMENTS,
        segment_rows=_SEGMENT_ROWS,
        views=(TensorSpec("x", "FP32", (1,)),),
        members=tuple(f"m{member}" for member in everybody),
        blocks=(BlockSpec(everybody, "FP32", (classes,)),),
        ensembles=(ensemble,),
    )
    return Arena(mmap.mmap(-1, arena_bytes(spec)), spec)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table or, with ``--json``, the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.combining", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="best of so many (%(default)s)")
    parser.add_argument("--rules", nargs="+", choices=sorted(RULES), default=list(RULES))
    parser.add_argument("--rows", nargs="+", type=int, choices=(1, 8, 64), default=[1, 8, 64])
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    figures = [
        {
            "rule": rule,
            "range_rows": rows,
            "us_per_row_of_1000_classes": 1e6
            * measure_s(rule, classes=1000, rows=rows, rounds=chosen.rounds),
            "member_rows_per_s_of_10_classes": _MEMBERS
            / measure_s(rule, classes=10, rows=rows, rounds=chosen.rounds),
        }
        for rule in chosen.rules
        for rows in chosen.rows
    ]
    if chosen.json:
        print(json.dumps(figures))
        return
    print(f"{_MEMBERS} members, FP32, one core, best of {chosen.rounds} rounds; mean and weighted")
    print(f"mean should take at most {_TARGET_US:g} us and do {_TARGET_ROWS_PER_S:,.0f} in ranges")
    print(f"{'rule':16}{'range':>6}{'us/row, 1000 classes':>24}{'member-rows/s, 10 classes':>28}")
    for one in figures:
        print(
            f"{one['rule']:16}{one['range_rows']:6}{one['us_per_row_of_1000_classes']:24.1f}"
            f"{one['member_rows_per_s_of_10_classes']:28,.0f}"
        )


if __name__ == "__main__":
    main()
