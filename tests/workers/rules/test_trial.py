import os
import textwrap

import pytest

from workers.rules.trial import Trial, try_rules
from workers.runtime.spec import TensorSpec

pytestmark = pytest.mark.process

BROKEN = {
    "there is no module 'nowhere'": "nowhere:rule",
    "has no 'other'": "mine:other",
    "called with random predictions [3, 1, 4]: it returned shape [4], not [1, 4]": "mine:flat",
    "called with random predictions [3, 1, 4]: AssertionError": "mine:wants_doubles",
    "called with random predictions [2, 1, 4]: IndexError": "mine:needs_three",
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
    return Trial(
        rule, directory, ("a", "b", "c"), (1, 2, 3), TensorSpec("output", "FP32", (4,)), True, 2
    )


def test_a_rule_that_works(directory):
    before = set(os.listdir(directory))
    assert try_rules([trial("mine:fine", directory)]) == [""]
    assert set(os.listdir(directory)) - before <= {"__pycache__"}


def test_rules_that_do_not(directory):
    problems = try_rules([trial(rule, directory) for rule in BROKEN.values()])
    for wanted, problem in zip(BROKEN, problems, strict=True):
        assert wanted in problem
        assert "\n" not in problem


def test_nothing_to_try():
    assert try_rules([]) == []
