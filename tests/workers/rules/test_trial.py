import os
import textwrap

import pytest

from workers.rules.trial import Trial, Tried, try_rules
from workers.runtime.spec import RuleSpec, TensorSpec

pytestmark = pytest.mark.process

PREDICTED = TensorSpec("output", "FP32", (4,))
SHAPES = {"mean": (), "std": (), "interval": (2,)}

BROKEN = {
    "there is no module 'nowhere'": "nowhere:rule",
    "has no 'other'": "mine:other",
    "called with random predictions [3, 1, 4]: it returned shape [4], not [1, ...]": "mine:flat",
    "called with random predictions [3, 1, 4]: AssertionError": "mine:wants_doubles",
    "called with random predictions [2, 1, 4]: IndexError": "mine:needs_three",
    "[2, 1, 4]: it returned output ['n', 2], before output ['n', 3]": "mine:changes",
    "died of SIGKILL": "mine:dies",
    "exited 7": "mine:exits",
    "took more than": "mine:hangs",
}


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""
            import os, signal
            import numpy as np

            print("a module may print")

            def fine(predictions, weights, members):
                print("and so may a rule")
                assert members == ("a", "b", "c")[:len(members)]
                assert np.allclose(predictions.sum(axis=-1), 1)
                return np.average(predictions, axis=0, weights=weights)

            def flat(predictions, weights, members):
                return predictions[0, 0]

            def wants_doubles(predictions, weights, members):
                assert predictions.dtype == np.float64
                return predictions[0]

            def needs_three(predictions, weights, members):
                return predictions[2]

            def statistics(predictions, weights, members):
                mean, std = predictions.mean(axis=(0, 2)), predictions.std(axis=(0, 2))
                return {"mean": mean, "std": std, "interval": np.stack([mean - std, mean + std], 1)}

            def changes(predictions, weights, members):
                return predictions.mean(axis=0)[:, : len(members)]

            def dies(predictions, weights, members):
                os.kill(os.getpid(), signal.SIGKILL)

            def exits(predictions, weights, members):
                os._exit(7)

            def hangs(predictions, weights, members):
                while True:
                    pass
        """)
    )
    return str(tmp_path)


def trial(rule, directory):
    spec = RuleSpec(rule, (0,), (), (1, 2, 3), directory=directory)
    return Trial(spec, ("a", "b", "c"), PREDICTED, True, 2)


def test_a_rule_that_works(directory):
    before = set(os.listdir(directory))
    assert try_rules([trial("mine:fine", directory)]) == [Tried((PREDICTED,))]
    assert set(os.listdir(directory)) - before <= {"__pycache__"}


def test_rules_that_do_not(directory):
    found = try_rules([trial(rule, directory) for rule in BROKEN.values()])
    for wanted, tried in zip(BROKEN, found, strict=True):
        assert wanted in tried.problem
        assert "\n" not in tried.problem
        assert tried.outputs == ()


def test_rules_may_yield_other_shapes_and_several_outputs(directory):
    (statistics,) = try_rules([trial("mine:statistics", directory)])
    assert statistics == Tried(
        tuple(TensorSpec(name, "FP32", shape) for name, shape in SHAPES.items())
    )


def test_nothing_to_try():
    assert try_rules([]) == []
