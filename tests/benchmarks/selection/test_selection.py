"""The parts of the benchmark of selection that need no training."""

import numpy as np
import pytest

from benchmarks.selection.library import Library
from benchmarks.selection.methods import compare
from benchmarks.selection.ranks import draw_ranks, rank
from benchmarks.selection.tasks import TASKS, folds


def test_the_critical_difference_is_that_of_the_literature():
    qualities = np.random.default_rng(0).random((30, 5))
    ranks = rank("abcde", qualities)
    # 2.728 is the table's entry for five methods at 5% (Demšar 2006, table 5a).
    assert ranks.critical_difference == pytest.approx(2.728 * (5 * 6 / (6 * 30)) ** 0.5, abs=1e-3)
    assert sum(ranks.mean) == pytest.approx(15)
    assert ranks.p > 0.05


def test_the_best_method_comes_first_and_ties_share_their_ranks(tmp_path):
    qualities = np.tile([1.0, 3.0, 3.0, 0.0], (12, 1))
    ranks = rank("wxyz", qualities)
    assert ranks.methods == ("x", "y", "w", "z")
    assert ranks.mean == (1.5, 1.5, 3.0, 4.0)
    assert ranks.p < 1e-3
    draw_ranks(tmp_path / "ranks.svg", ranks, "ranks")
    assert (tmp_path / "ranks.svg").stat().st_size > 1000


def test_folds_are_always_the_same_and_apart():
    task = TASKS["wine"]()
    once, again = [*folds(task, 3)], [*folds(task, 3)]
    for one, other in zip(once, again, strict=True):
        assert one.train.tolist() == other.train.tolist()
        assert one.test.tolist() == other.test.tolist()
        rows = np.concatenate([one.train, one.valid, one.test])
        assert sorted(rows.tolist()) == list(range(len(task.y)))
    assert len(TASKS) >= 12


def test_a_fold_is_judged_by_rows_that_nothing_was_chosen_by():
    """A member that only knows the validation rows is chosen, and found out."""
    task = TASKS["wine"]()
    fold = next(iter(folds(task, 3)))
    truth = np.eye(3)[task.y]
    random = np.random.default_rng(0)
    doubt = 0.5 * truth + 0.5 * random.dirichlet(np.ones(3), len(truth))
    predictions = np.stack([truth, doubt, np.roll(truth, 1, axis=1)])
    test = predictions[:, fold.test].copy()
    test[0] = np.roll(test[0], 1, axis=1)
    latency_s = {name: {1: 1e-3, 8: 2e-3} for name in "abc"}
    library = Library(tuple("abc"), predictions[:, fold.valid], test, latency_s, {})
    outcome = compare(task, fold, 0, library)
    assert outcome.methods["best_single"].quality == 0.0
    assert outcome.methods["all"].rows_per_s < outcome.methods["best_single"].rows_per_s
    assert set(outcome.covered) == {"ours", "caruana", "top_k"}
    assert all(0 <= share <= 1.03 for share in outcome.covered.values())
