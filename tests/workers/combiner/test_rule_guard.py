"""Which rule crashed a combiner, and for how long it is paused."""

import time

import numpy as np
import pytest
from arenas import arena_spec, claim, ensemble, mapped, open_arena
from msgspec.structs import replace

from workers.combiner.arena_combiner import ArenaCombiner
from workers.combiner.rule_guard import RuleCrashes, RuleGuard, guarded_rules, rule_code, rules_of
from workers.runtime.memory import BOARD_CELLS, BoardRow
from workers.runtime.spec import FileStamp, GenerationSpec, PausedRule

CODE = rule_code(2, 5)
SECOND = 10**9


@pytest.fixture
def board():
    return BoardRow(memoryview(bytearray(8 * BOARD_CELLS)).cast("q"))


def test_codes_are_distinct_and_not_idle():
    assert len({0, *(rule_code(arena, one) for arena in range(4) for one in range(4))}) == 17


def test_three_crashes_within_a_minute_make_a_pause():
    crashes = RuleCrashes()
    crashes.record("", 1 * SECOND)
    for second in (10, 80, 81):  # the first is long ago when the others come
        crashes.record("own", second * SECOND)
        crashes.record("other", 10 * SECOND)
    assert crashes.paused(82 * SECOND) == ()
    crashes.record("own", 90 * SECOND)
    assert crashes.paused(91 * SECOND) == (PausedRule("own", 3, 150 * SECOND),)
    assert crashes.paused(150 * SECOND) == ()


def test_a_rule_is_the_same_one_in_another_generation_until_its_code_changes():
    stamp = FileStamp("rule.py", 10, 1)
    own = ensemble("own", (0, 1), rule="rule:middle", stamps=(stamp,))
    changed = ensemble("own", (0, 1), rule="rule:middle", stamps=(replace(stamp, mtime_ns=2),))
    generations = [
        GenerationSpec(
            number, 0, 0, (arena_spec(index=number, ensembles=(ensemble("e", (0,)), one)),)
        )
        for number, one in ((3, own), (4, own), (5, changed))
    ]
    before, same, other = (rules_of(rule_code(index, 1), generations) for index in (3, 4, 5))
    assert before == same != other
    assert rules_of(0, generations) == rules_of(rule_code(6, 1), generations) == ""


def test_the_board_names_a_rule_while_it_runs(board):
    def rule(predictions, out):
        assert board.executing == CODE
        assert not board.is_hung(time.monotonic_ns(), SECOND)
        assert board.is_hung(time.monotonic_ns() + 60 * SECOND, SECOND)
        out[...] = predictions[0]
        int("no")

    board.beat()
    out = np.zeros(2)
    with pytest.raises(ValueError, match="no"):
        RuleGuard(board, CODE).run(rule, np.ones((1, 2)), out)
    assert out.tolist() == [1, 1]
    assert board.executing == 0


def middle(predictions, weights, members):
    return predictions[0]


@pytest.mark.parametrize("left_s", [30, -1])
def test_a_paused_rule_fails_its_rows_until_the_pause_is_over(board, left_s, monkeypatch):
    monkeypatch.setattr("workers.rules.custom.resolve", lambda *_: middle)
    spec = arena_spec(
        ensembles=(ensemble("own", (0, 1), rule="house:middle"), ensemble("mean", (0, 1)))
    )
    until_ns = time.monotonic_ns() + left_s * SECOND
    with mapped(spec) as memory:
        arena = open_arena(memory)
        paused = PausedRule(guarded_rules(spec.ensembles[0]), 3, until_ns)
        combiner = ArenaCombiner(arena, board, [paused])
        for one in range(2):
            claim(arena, 64 + one, 65 + one, expected=0b11, ensemble_index=one)
            arena.done[:2, arena.slots(64 + one, 65 + one)] = 64 + one
        (own,), (mean,) = (combiner.evaluate(row, row + 1) for row in (64, 65))
    assert (own.answered, mean.answered) == (left_s < 0, True)
    assert ("crashed the combiner 3 times" in own.error) == (left_s > 0)
    assert np.array_equal(own.used, 0b11)
