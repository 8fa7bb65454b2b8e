"""Members with other classes, or in another order, as one array in the ensemble's classes."""

import numpy as np
import pytest
from arenas import arena_spec, claim, ensemble, mapped, open_arena, vector
from hypothesis import given
from hypothesis import strategies as st

from workers.combiner.arena_combiner import ArenaCombiner
from workers.combiner.predictions import ClassMap, member_predictions
from workers.runtime.spec import BlockSpec

START = 32 * 5


@given(st.data())
def test_every_class_gets_its_own_column_and_unknown_ones_get_zero(data):
    known = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True))
    classes = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True))
    rows = data.draw(st.integers(1, 4))
    values = np.random.default_rng(0).random((rows, len(known)), np.float32)
    out = np.full((rows, len(classes)), np.nan)
    ClassMap([known.index(one) if one in known else -1 for one in classes]).write(values, out)
    for row in range(rows):
        by_class = dict(zip(known, values[row].tolist(), strict=True))
        assert out[row].tolist() == [by_class.get(one, 0.0) for one in classes]


SPEC = arena_spec(
    blocks=(BlockSpec((0, 2), "FP32", (2,)), BlockSpec((1,), "FP64", (3,))),
    ensembles=(
        ensemble(
            "mixed",
            (2, 1, 0),
            quorum=1,
            output=vector(4, "FP64"),
            # Classes p q r s; member 2 knows s p, member 1 r q p, member 0 p q.
            columns=((1, -1, -1, 0), (2, 1, 0, -1), (0, 1, -1, -1)),
            scores=("variance",),
        ),
        ensemble("same", (0, 2), quorum=1),
    ),
)
A, B, C = [0.25, 0.75], [0.5, 0.125, 0.375], [0.0625, 0.9375]
IN_CLASSES = {2: [C[1], 0, 0, C[0]], 1: [B[2], B[1], B[0], 0], 0: [A[0], A[1], 0, 0]}


@pytest.fixture
def arena():
    with mapped(SPEC) as memory:
        arena = open_arena(memory)
        claim(arena, START, START + 3, expected=0b111, scores=True)
        for member, values in enumerate((A, B, C)):
            arena.predictions[member][:3] = values
            arena.done[member, :3] = arena.row_numbers(START, START + 3)
        yield arena


@pytest.mark.parametrize("used", [0b111, 0b101, 0b010, 0b110])
def test_the_combiner_sees_them_in_the_ensembles_classes(arena, used):
    arena.done[:, :3] *= np.array([[1 if used >> member & 1 else -1] for member in range(3)])
    (ended,) = ArenaCombiner(arena).evaluate(START, START + 3)
    assert (ended.answered, ended.used) == (True, used)
    chosen = [values for member, values in IN_CLASSES.items() if used >> member & 1]
    answers = arena.answers(SPEC.ensembles[0])[:3]
    np.testing.assert_array_equal(answers, [np.mean(chosen, axis=0)] * 3)
    wanted = np.var(chosen, axis=0).mean()
    np.testing.assert_allclose(arena.scores(SPEC.ensembles[0])[:3, 0], wanted, rtol=1e-6)


def test_members_of_the_same_classes_are_not_copied(arena):
    same = member_predictions(arena, SPEC.ensembles[1].main)
    taken = same.read(same.select([0, 1]), slice(0, 2))
    assert np.shares_memory(taken, arena.predictions[0])
    np.testing.assert_array_equal(taken, [[A, A], [C, C]])
