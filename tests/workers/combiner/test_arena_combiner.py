import numpy as np
import pytest
from arenas import arena_spec, claim, ensemble, mapped, open_arena, predict, vector
from hypothesis import given
from hypothesis import strategies as st

from workers.combiner.arena_combiner import ArenaCombiner
from workers.combiner.ensemble import EnsembleCombiner
from workers.rules import RULES
from workers.runtime.arena import Terms
from workers.runtime.messages import Deferred, Ended
from workers.runtime.spec import BlockSpec, EnsembleSpec, PredictionSpec, RuleSpec, TensorSpec

ALL = 0b111

SPEC = arena_spec(
    ensembles=(
        ensemble("all", (0, 1, 2)),
        ensemble("two", (0, 1, 2), quorum=2),
        ensemble("pair", (2, 0), quorum=1, rule="max"),
        ensemble("weighted", (2, 1), quorum=1, rule="weighted_mean", weights=(3.0, 1.0)),
    )
)
EVERY, QUORUM_2, PAIR, WEIGHTED = range(4)
START = 32 * 5  # generation 5: what is in the cells speaks of older rows or of none


@pytest.fixture
def memory():
    with mapped(SPEC) as memory:
        yield memory


@pytest.fixture
def arena(memory):
    return open_arena(memory)


@pytest.fixture
def combiner(memory):
    """Over a mapping of its own, as in its own process."""
    return ArenaCombiner(open_arena(memory))


def ended(start, stop, used, answered=True, error=""):
    return Ended(0, start, stop, used, answered, error)


def answers(arena, index, start, stop):
    return arena.answers(SPEC.ensembles[index])[arena.slots(start, stop)]


def mean_of(members, start, stop):
    rows = np.arange(start, stop)
    return np.stack([rows + np.mean(members), -rows], axis=1).astype(np.float32)


def test_complete_rows_end_once(arena, combiner):
    start, stop = START, START + 4
    slots = claim(arena, start, stop, expected=ALL)
    for member in range(3):
        assert combiner.evaluate(start, stop) == []
        predict(arena, member, start, stop)
    assert combiner.evaluate(start, stop) == [ended(start, stop, ALL)]
    np.testing.assert_array_equal(
        answers(arena, EVERY, start, stop), mean_of([0, 1, 2], start, stop)
    )
    assert arena.ended[slots].tolist() == list(range(start, stop))
    assert arena.used[slots].tolist() == [ALL] * 4
    assert combiner.evaluate(start, stop) == [], "told twice"
    assert combiner.scan() == []


def test_partial_rows_stay(arena, combiner):
    claim(arena, START, START + 3, expected=ALL)
    predict(arena, 0, START, START + 3)
    predict(arena, 1, START, START + 3)
    predict(arena, 2, START + 1, START + 2)
    assert combiner.evaluate(START, START + 3) == [ended(START + 1, START + 2, ALL)]
    assert combiner.scan() == []
    predict(arena, 2, START, START + 1)
    predict(arena, 2, START + 2, START + 3)
    assert combiner.scan() == [ended(START, START + 1, ALL), ended(START + 2, START + 3, ALL)]


def test_a_failed_member_without_a_quorum_fails_the_row(arena, combiner):
    slots = claim(arena, START, START + 2, expected=ALL)
    for member in range(3):
        predict(arena, member, START, START + 1)
        predict(arena, member, START + 1, START + 2, failed=member == 1)
    assert combiner.evaluate(START, START + 2, "member 'b' failed: because") == [
        ended(START, START + 1, ALL),
        ended(START + 1, START + 2, 0b101, False, "member 'b' failed: because"),
    ]
    assert arena.ended[slots].tolist() == [START, -START - 1]
    assert combiner.evaluate(START, START + 2) == []
    assert combiner.scan() == []


@pytest.mark.parametrize("rows", [1, 3])
def test_what_a_member_said_is_kept_until_the_row_ends(arena, combiner, rows):
    stop = START + rows
    claim(arena, START, stop, expected=ALL)
    predict(arena, 1, START, stop, failed=True)
    assert combiner.evaluate(START, stop, "why b failed") == []
    predict(arena, 0, START, stop)
    predict(arena, 2, START, stop)
    assert combiner.evaluate(START, stop) == [ended(START, stop, 0b101, False, "why b failed")]
    claim(arena, stop, stop + 1, expected=ALL)
    for member in range(3):
        predict(arena, member, stop, stop + 1, failed=member == 2)
    assert combiner.evaluate(stop, stop + 1) == [ended(stop, stop + 1, 0b011, False)], "no more"


def test_a_failed_member_with_a_quorum_is_left_out(arena, combiner):
    claim(arena, START, START + 1, expected=ALL, ensemble_index=QUORUM_2)
    predict(arena, 0, START, START + 1)
    predict(arena, 1, START, START + 1, failed=True)
    assert combiner.evaluate(START, START + 1) == [], "the third member may still come"
    predict(arena, 2, START, START + 1)
    assert combiner.evaluate(START, START + 1, "why b failed") == [ended(START, START + 1, 0b101)]
    np.testing.assert_array_equal(
        answers(arena, QUORUM_2, START, START + 1), mean_of([0, 2], START, START + 1)
    )


@pytest.mark.parametrize("by_scan", [False, True])
def test_closing_answers_with_a_quorum_and_fails_without(arena, combiner, by_scan):
    claim(arena, START, START + 2, expected=ALL, ensemble_index=QUORUM_2)
    predict(arena, 0, START, START + 2)
    predict(arena, 2, START, START + 1)
    assert combiner.scan() == []
    arena.closing[arena.slots(START, START + 2)] = arena.row_numbers(START, START + 2)
    assert (combiner.scan() if by_scan else combiner.evaluate(START, START + 2)) == [
        ended(START, START + 1, 0b101),
        ended(START + 1, START + 2, 0b001, False),
    ]
    predict(arena, 1, START, START + 2)
    predict(arena, 2, START + 1, START + 2)
    assert combiner.evaluate(START, START + 2) == [], "a straggler changes nothing"
    np.testing.assert_array_equal(
        answers(arena, QUORUM_2, START, START + 1), mean_of([0, 2], START, START + 1)
    )


def test_only_the_row_that_is_to_be_closed_is_closed(arena, combiner):
    claim(arena, START, START + 1, expected=ALL, ensemble_index=QUORUM_2)
    predict(arena, 0, START, START + 1)
    predict(arena, 2, START, START + 1)
    arena.closing[arena.slots(START, START + 1)] = START - 32  # the slot's former row
    assert combiner.scan() == []


def test_what_former_rows_left_in_the_cells_counts_for_nothing(arena, combiner):
    for generation in range(5, 9):
        start = 32 * generation
        claim(arena, start, start + 8, expected=ALL)
        for member in range(3):
            assert combiner.evaluate(start, start + 8) == []
            assert combiner.scan() == []
            predict(arena, member, start, start + 8)
        assert combiner.evaluate(start - 32, start - 24) == [], "a late word of the former rows"
        assert combiner.evaluate(start, start + 8) == [ended(start, start + 8, ALL)]
        np.testing.assert_array_equal(
            answers(arena, EVERY, start, start + 8), mean_of([0, 1, 2], start, start + 8)
        )


def test_members_that_are_not_expected_are_neither_waited_for_nor_used(arena, combiner):
    claim(arena, START, START + 1, expected=0b011, ensemble_index=QUORUM_2)
    for member in (2, 0, 1):
        assert combiner.evaluate(START, START + 1) == []
        predict(arena, member, START, START + 1)
    assert combiner.evaluate(START, START + 1) == [ended(START, START + 1, 0b011)]


def test_mixed_ensembles_and_masks_in_one_range(arena, combiner):
    claim(arena, START, START + 2, expected=ALL, ensemble_index=EVERY)
    claim(arena, START + 2, START + 4, expected=0b101, ensemble_index=PAIR)
    claim(arena, START + 4, START + 5, expected=0b110, ensemble_index=WEIGHTED)
    claim(arena, START + 5, START + 6, expected=0b010, ensemble_index=WEIGHTED)
    claim(arena, START + 6, START + 8, expected=ALL, ensemble_index=QUORUM_2)
    for member in range(3):
        predict(arena, member, START, START + 7)
        predict(arena, member, START + 7, START + 8, failed=member == 0)
    assert combiner.evaluate(START, START + 8) == [
        ended(START, START + 2, ALL),
        ended(START + 2, START + 4, 0b101),
        ended(START + 4, START + 5, 0b110),
        ended(START + 5, START + 6, 0b010),
        ended(START + 6, START + 7, ALL),
        ended(START + 7, START + 8, 0b110),
    ]
    for index, start, stop, members in (
        (EVERY, 0, 2, [0, 1, 2]),
        (PAIR, 2, 4, [2]),
        (WEIGHTED, 4, 5, [2, 2, 2, 1]),
        (WEIGHTED, 5, 6, [1]),
        (QUORUM_2, 6, 7, [0, 1, 2]),
        (QUORUM_2, 7, 8, [1, 2]),
    ):
        np.testing.assert_allclose(
            answers(arena, index, START + start, START + stop),
            mean_of(members, START + start, START + stop),
        )


def test_a_rule_that_raises_fails_its_rows_only(memory, arena, monkeypatch, caplog):
    def breaks(*_):
        raise ZeroDivisionError("a rule's mistake")

    monkeypatch.setitem(RULES, "max", breaks)
    combiner = ArenaCombiner(open_arena(memory))
    claim(arena, START, START + 1, expected=ALL)
    claim(arena, START + 1, START + 2, expected=0b101, ensemble_index=PAIR)
    claim(arena, START + 2, START + 3, expected=ALL)
    for member in range(3):
        predict(arena, member, START, START + 3)
    assert combiner.evaluate(START, START + 3) == [
        ended(START, START + 1, ALL),
        ended(START + 1, START + 2, 0b101, False, "rule max: a rule's mistake"),
        ended(START + 2, START + 3, ALL),
    ]
    assert "rule max of pair failed" in caplog.text
    assert combiner.scan() == []


def test_a_rule_that_can_not_be_made_fails_its_rows_only():
    broken = ensemble("broken", (0, 1, 2), rule="no_such_module_at_all:rule")
    spec = arena_spec(ensembles=(ensemble("all", (0, 1, 2)), broken))
    with mapped(spec) as memory:
        arena = open_arena(memory)
        combiner = ArenaCombiner(open_arena(memory))
        claim(arena, START, START + 1, expected=ALL)
        claim(arena, START + 1, START + 2, expected=ALL, ensemble_index=1)
        for member in range(3):
            predict(arena, member, START, START + 2)
        reason = "there is no module 'no_such_module_at_all'"
        assert combiner.evaluate(START, START + 2) == [
            ended(START, START + 1, ALL),
            ended(START + 1, START + 2, ALL, False, f"rule {broken.rule}: {reason}"),
        ]
        assert combiner.load_errors == [f"rule {broken.rule} of broken can't be used: {reason}"]


def test_a_new_combiner_carries_on(memory, arena, combiner):
    claim(arena, START, START + 8, expected=ALL)
    claim(arena, START + 8, START + 12, expected=ALL)
    for member in range(3):
        predict(arena, member, START, START + 2)
    combiner.evaluate(START, START + 2)
    for member in range(3):
        predict(arena, member, START + 4, START + 10)  # whoever should have been told is dead
    # The old one wrote an answer, but died before it said that the rows have ended.
    arena.answers(SPEC.ensembles[EVERY])[arena.slots(START + 4, START + 5)] = 77
    heir = ArenaCombiner(open_arena(memory))
    assert heir.scan() == [ended(START + 4, START + 8, ALL), ended(START + 8, START + 10, ALL)]
    np.testing.assert_array_equal(
        answers(arena, EVERY, START + 4, START + 10), mean_of([0, 1, 2], START + 4, START + 10)
    )
    for member in range(3):
        predict(arena, member, START + 2, START + 4)
    assert heir.evaluate(START + 2, START + 4) == [ended(START + 2, START + 4, ALL)]
    assert heir.scan() == []


def test_members_of_blocks_of_different_types():
    spec = arena_spec(
        index=3,
        members=("a", "b", "c", "d"),
        blocks=(BlockSpec((0, 2), "FP32", (2,)), BlockSpec((1, 3), "FP64", ())),
        ensembles=(
            ensemble("vectors", (2, 0)),
            ensemble("scalars", (3, 1), output=TensorSpec("output", "FP64", ())),
        ),
    )
    with mapped(spec) as memory:
        arena = open_arena(memory)
        combiner = ArenaCombiner(open_arena(memory))
        claim(arena, 40, 41, expected=0b0101, ensemble_index=0)
        claim(arena, 41, 42, expected=0b1010, ensemble_index=1)
        arena.predictions[0][8] = [1, 2]
        arena.predictions[2][8] = [3, 6]
        arena.predictions[1][9] = 0.1
        arena.predictions[3][9] = 0.3
        arena.done[:, 8:10] = [[40, 41]] * 4
        assert [(end.arena, end.start, end.used) for end in combiner.evaluate(40, 42)] == [
            (3, 40, 0b0101),
            (3, 41, 0b1010),
        ]
        assert arena.answers(spec.ensembles[0])[8].tolist() == [2, 4]
        assert arena.answers(spec.ensembles[1])[9] == pytest.approx(0.2, rel=1e-15)


events = st.lists(
    st.one_of(
        st.tuples(st.just("predict"), st.integers(0, 2), st.integers(0, 7), st.booleans()),
        st.tuples(st.just("close"), st.just(0), st.integers(0, 7), st.booleans()),
        st.tuples(st.just("evaluate"), st.integers(1, 8), st.integers(0, 7), st.booleans()),
        st.tuples(st.just("scan"), st.just(0), st.just(0), st.booleans()),
        st.tuples(st.just("restart"), st.just(0), st.just(0), st.booleans()),
    ),
    max_size=60,
)


@given(events)
def test_every_row_ends_once_and_with_what_was_there(steps):
    """Rows 0 to 7 of a segment, in any order of events, against a model in sets."""
    with mapped(SPEC) as memory:
        arena = open_arena(memory)
        combiner = ArenaCombiner(open_arena(memory))
        ensembles = [(row % 4, SPEC.ensembles[row % 4].mask) for row in range(8)]
        for row, (index, mask) in enumerate(ensembles):
            claim(arena, START + row, START + row + 1, expected=mask, ensemble_index=index)
        predicted, failed = ([0] * 8 for _ in range(2))
        closing: set[int] = set()
        over: set[int] = set()

        def take(ends, looked_at):
            for end in ends:
                for row in range(end.start - START, end.stop - START):
                    assert row not in over
                    assert row in looked_at
                    over.add(row)
                    index, mask = ensembles[row]
                    assert end.used == predicted[row] & mask
                    assert row in closing or not mask & ~(predicted[row] | failed[row])
                    quorum = SPEC.ensembles[index].quorum
                    assert end.answered == (end.used.bit_count() >= quorum)
            for row in looked_at - over:
                mask = ensembles[row][1]
                assert row not in closing
                assert mask & ~(predicted[row] | failed[row])

        for operation, number, row, flag in steps:
            match operation:
                case "predict" if row not in over and not failed[row] >> number & 1:
                    bits = failed if flag and not predicted[row] >> number & 1 else predicted
                    bits[row] |= 1 << number
                    predict(arena, number, START + row, START + row + 1, failed=bits is failed)
                case "close":
                    closing.add(row)
                    arena.closing[arena.slots(START + row, START + row + 1)] = START + row
                case "evaluate":
                    stop = min(8, row + number)
                    take(combiner.evaluate(START + row, START + stop), set(range(row, stop)))
                case "scan":
                    take(combiner.scan(), set(range(8)))
                case "restart":
                    combiner = ArenaCombiner(open_arena(memory))
        take(combiner.scan(), set(range(8)))


# -- cascades, and answers that are certain early ----------------------------------------------

STAGED = ensemble("staged", (0, 1, 2), quorum=1, stages=(0b001, 0b111), thresholds=(0.75,))


@pytest.fixture
def staged():
    with mapped(arena_spec(ensembles=(STAGED,))) as memory:
        yield open_arena(memory), ArenaCombiner(open_arena(memory))


def say(arena, member, start, probabilities):
    """Let a member give these probabilities of the first class to the rows from `start` on."""
    first = np.array(probabilities, np.float32)
    stop = start + len(first)
    slots = arena.slots(start, stop)
    arena.predictions[member][slots] = np.stack([first, 1 - first], axis=1)
    arena.done[member, slots] = arena.row_numbers(start, stop)


@pytest.mark.parametrize("by_scan", [False, True])
def test_rows_leave_a_cascade_when_they_are_sure(staged, by_scan):
    arena, combiner = staged
    claim(arena, START, START + 4, expected=0b001, quorum=1, stage=1)
    say(arena, 0, START, [0.9, 0.6, 0.5, 0.1])
    outcomes = combiner.scan() if by_scan else combiner.evaluate(START, START + 4)
    assert outcomes == [
        ended(START, START + 1, 0b001),
        ended(START + 3, START + 4, 0b001),
        Deferred(0, START + 1, START + 3, 1),
    ]
    again = combiner.scan()
    assert again == [Deferred(0, START + 1, START + 3, 1)], "until the front-end has done it"
    slots = arena.slots(START + 1, START + 3)
    arena.expected[slots] = 0b111
    arena.terms[slots] = Terms(1, stage=2).pack()
    assert combiner.scan() == []
    say(arena, 1, START + 1, [0.6, 0.6])
    say(arena, 2, START + 1, [0.6, 0.5])
    assert combiner.evaluate(START + 1, START + 3) == [ended(START + 1, START + 3, 0b111)]
    np.testing.assert_allclose(
        arena.answers(STAGED)[slots][:, 0], [0.6, np.mean([0.5, 0.6, 0.5])], rtol=1e-6
    )


@pytest.mark.parametrize("first", [0.9, 0.5])
def test_a_lone_row_leaves_a_cascade_or_is_deferred(staged, first):
    arena, combiner = staged
    claim(arena, START, START + 1, expected=0b001, quorum=1, stage=1)
    assert combiner.evaluate(START, START + 1) == []
    say(arena, 0, START, [first])
    (outcome,) = combiner.evaluate(START, START + 1)
    sure = ended(START, START + 1, 0b001)
    assert outcome == (sure if first > 0.75 else Deferred(0, START, START + 1, 1))


def test_a_stage_that_fails_is_no_answer_but_a_question_to_the_next(staged):
    arena, combiner = staged
    claim(arena, START, START + 2, expected=0b001, quorum=1, stage=1)
    predict(arena, 0, START, START + 2, failed=True)
    assert combiner.evaluate(START, START + 2) == [Deferred(0, START, START + 2, 1)]


def test_a_closed_row_is_not_deferred(staged):
    arena, combiner = staged
    slots = claim(arena, START, START + 2, expected=0b001, quorum=1, stage=1)
    say(arena, 0, START, [0.5, 0.5])
    arena.closing[slots] = arena.row_numbers(START, START + 2)
    assert combiner.evaluate(START, START + 2) == [ended(START, START + 2, 0b001)]


@pytest.mark.parametrize("rows", [1, 3])
def test_a_certain_class_does_not_wait(staged, rows):
    arena, combiner = staged
    stop = START + rows
    claim(arena, START, stop, expected=0b111, quorum=3, early=True)
    say(arena, 0, START, [0.9] * rows)
    assert combiner.evaluate(START, stop) == []
    say(arena, 1, START, [0.9, 0.2, 0.6][:rows])
    # Leads of 1.6, 0.2 and 1.0: only the first is more than the third member can make up for.
    certain = Ended(0, START, START + 1, 0b011, True, "", certain=True)
    assert combiner.evaluate(START, stop) == [certain]
    if rows == 3:
        say(arena, 2, START + 1, [0.0, 0.0])
        assert combiner.scan() == [ended(START + 1, stop, 0b111)]


def test_what_is_closed_before_it_is_certain_needs_its_quorum(staged):
    arena, combiner = staged
    slots = claim(arena, START, START + 1, expected=0b111, quorum=2, early=True)
    say(arena, 0, START, [0.9])
    arena.closing[slots] = START
    assert combiner.evaluate(START, START + 1) == [ended(START, START + 1, 0b001, answered=False)]


def test_a_rule_that_fails_on_one_row_fails_that_row(staged, monkeypatch):
    arena, combiner = staged
    stop = START + 5
    claim(arena, START, stop, expected=0b111, quorum=3)
    for member in range(3):
        say(arena, member, START, [0.9, 0.8, 0.25, 0.7, 0.6])
    combine = EnsembleCombiner.combine

    def picky(ensemble, slots, used):
        combine(ensemble, slots, used)
        if (arena.predictions[0][slots][:, 0] == 0.25).any():
            raise ValueError("a quarter")

    monkeypatch.setattr(EnsembleCombiner, "combine", picky)
    outcomes = combiner.evaluate(START, stop)
    answered = [row for one in outcomes if one.answered for row in range(one.start, one.stop)]
    (failed,) = (one for one in outcomes if not one.answered)
    assert answered == [START, START + 1, START + 3, START + 4]
    assert (failed.start, failed.stop, failed.error) == (
        START + 2,
        START + 3,
        "rule mean: a quarter",
    )


@given(
    st.lists(
        st.tuples(
            st.integers(1, ALL),
            st.lists(st.sampled_from([-1, 0, 1]), min_size=3, max_size=3),
            st.booleans(),
            st.booleans(),
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 3),
)
def test_whatever_may_end_is_known_beforehand(rows, index):
    """Else a worker would not wake the combiner for it."""
    mask = SPEC.ensembles[index].mask
    rows = [(expected & mask or mask, *state) for expected, *state in rows]
    with mapped(SPEC) as memory:
        arena, stop = open_arena(memory), START + len(rows)
        for row, (expected, said, is_early, is_closing) in enumerate(rows, START):
            claim(arena, row, row + 1, expected=expected, ensemble_index=index, early=is_early)
            for member, sign in enumerate(said):
                if sign:
                    predict(arena, member, row, row + 1, failed=sign < 0)
            if is_closing:
                arena.closing[arena.slots(row, row + 1)] = row
        may_end = arena.may_end(START, stop)
        assert may_end or not ArenaCombiner(open_arena(memory)).evaluate(START, stop)
        is_open = any(
            is_early or is_closing or all(said[m] for m in range(3) if expected >> m & 1)
            for expected, said, is_early, is_closing in rows
        )
        assert may_end == is_open


def test_further_outputs_are_computed_only_where_they_are_wanted():
    main, boxes = vector(2), TensorSpec("boxes", "FP32", (3,))
    spec = EnsembleSpec(
        "both",
        (0, 1),
        1,
        (PredictionSpec(main, (0, 1)), PredictionSpec(boxes, (3, 4))),
        (RuleSpec("mean", (0,), (main,)), RuleSpec("max", (1,), (boxes,))),
    )
    blocks = (BlockSpec((0, 1, 2), "FP32", (2,)), BlockSpec((3, 4), "FP32", (3,)))
    with mapped(arena_spec(blocks=blocks, ensembles=(spec,))) as memory:
        arena = open_arena(memory)
        slots = claim(arena, START, START + 4, expected=0b011)
        arena.terms[slots][:2] = Terms(1, outputs=True).pack()
        for area, values in ((0, [1, 2]), (1, [3, 4]), (3, [1, 5, 3]), (4, [4, 2, 6])):
            arena.predictions[area][slots] = values
        arena.done[:2, slots] = arena.row_numbers(START, START + 4)
        outcomes = ArenaCombiner(arena).evaluate(START, START + 4)
        assert [(one.start, one.stop, one.answered) for one in outcomes] == [
            (START, START + 2, True),
            (START + 2, START + 4, True),
        ]
        assert arena.answers(spec)[slots].tolist() == [[2, 3]] * 4
        assert arena.answers(spec, 1)[slots].tolist() == [[4, 5, 6]] * 2 + [[0, 0, 0]] * 2
