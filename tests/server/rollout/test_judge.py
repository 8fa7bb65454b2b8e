"""Verdicts on roll-outs: no decision on noise, none too late."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.rollout.agreement import Agreement
from server.rollout.figures import RolloutFigures
from server.rollout.judge import Judge, judge, share_interval
from server.rollout.spec import Limits, RolloutSpec


def spec(promote=None, rollback=None):
    return RolloutSpec(
        model="m",
        version="2",
        mode="shadow",
        percent=100,
        promote=promote and Limits(**promote),
        rollback=rollback and Limits(**rollback),
    )


def figures(requests, *, apart=0, errors=0, slower=1.0, rows=1):
    """Of so many requests to each version, some of whose rows disagree; the new one may fail."""
    clock, made = random.Random(0), RolloutFigures()
    for number in range(requests):
        seconds = clock.lognormvariate(-5, 0.5)
        made.present.answer(rows, seconds)
        if number < errors:
            made.new.errors += 1
            continue
        made.new.answer(rows, seconds * slower)
        made.agree(Agreement(rows, apart * rows / requests, 0.0))
    return made


def test_a_good_version_is_promoted_once_enough_is_known():
    limits = {"after_requests": 500, "max_disagreement": 0.02, "max_error_rate": 0.02}
    assert judge(spec(promote=limits), figures(499)).action == "wait"
    verdict = judge(spec(promote=limits), figures(500))
    assert verdict.action == "promote"
    assert verdict.reason == (
        "0 of 500 rows disagree (0.000%, limit 2.000%); "
        "0 of 500 requests failed (0.000%, limit 2.000%); after 500 requests"
    )


def test_few_requests_prove_no_small_share():
    limits = {"after_requests": 10, "max_disagreement": 0.01}
    verdict = judge(spec(promote=limits), figures(10))
    assert verdict.action == "wait"
    assert "0 of 10 rows disagree" in verdict.reason


def test_no_limit_is_kept_at_once():
    assert judge(spec(promote={"after_requests": 3}), figures(3)).action == "promote"


@pytest.mark.parametrize(
    ("limits", "bad", "named"),
    [
        ({"max_disagreement": 0.05}, {"apart": 40}, "40 of 200 rows disagree"),
        ({"max_error_rate": 0.05}, {"errors": 40}, "40 of 200 requests failed"),
        ({"max_latency_ratio": 1.2}, {"slower": 2.0}, "latency 2 times the present one"),
    ],
)
def test_a_bad_version_is_rolled_back(limits, bad, named):
    both = spec(promote={"after_requests": 1}, rollback={"after_requests": 100, **limits})
    verdict = judge(both, figures(200, **bad))
    assert verdict.action == "rollback"
    assert named in verdict.reason
    assert judge(spec(rollback={"after_requests": 100, **limits}), figures(200)).action == "wait"


def test_one_failure_of_few_requests_is_noise():
    limits = {"after_requests": 1, "max_error_rate": 0.1}
    assert judge(spec(rollback=limits), figures(5, errors=1)).action == "wait"


def test_latencies_of_few_answers_are_not_compared():
    limits = {"after_requests": 1, "max_latency_ratio": 1.2}
    for both in (spec(rollback=limits), spec(promote=limits)):
        verdict = judge(both, figures(29, slower=5))
        assert verdict.action == "wait"
    assert "only 29 latencies" in verdict.reason


def test_a_few_slow_answers_change_nothing():
    made = figures(2000)
    for _ in range(5):
        made.new.answer(1, 10.0)
    limits = {"after_requests": 1000, "max_latency_ratio": 1.1}
    assert judge(spec(rollback=limits), made).action == "wait"
    assert judge(spec(promote=limits), made).action == "promote"


def test_the_rows_of_one_request_are_one_observation():
    limits = {"after_requests": 1, "max_disagreement": 0.01}
    many = figures(10, rows=1000)
    assert judge(spec(promote=limits), many).action == "wait"


def test_it_looks_again_after_a_tenth_more():
    one = Judge(spec(rollback={"after_requests": 100, "max_error_rate": 0.1}))
    assert "too few" in one.look(figures(99)).reason
    one.look(figures(100))
    assert one.look(figures(105, errors=100)).action == "wait"
    assert one.look(figures(110, errors=100)).action == "rollback"


@given(share=st.floats(0, 1), trials=st.integers(0, 10**6))
def test_the_interval_holds_what_was_found(share, trials):
    low, high = share_interval(share, trials)
    assert 0 <= low <= high <= 1
    if trials:
        assert low <= share + 1e-9
        assert share <= high + 1e-9
    narrower = share_interval(share, 4 * trials + 1)
    assert narrower[1] - narrower[0] <= high - low + 1e-9


def test_a_version_within_its_limits_is_hardly_ever_rolled_back():
    chance, both = random.Random(1), {"max_error_rate": 0.02}
    decided = []
    for _ in range(200):
        one, made = Judge(spec(rollback={"after_requests": 50, **both})), RolloutFigures()
        verdicts = []
        for _ in range(1000):
            if chance.random() < 0.02:
                made.new.errors += 1
            else:
                made.new.answer(1, 0.01)
            verdicts.append(one.look(made).action)
        decided.append("rollback" in verdicts)
    assert sum(decided) <= 6  # of 200, at the very limit
