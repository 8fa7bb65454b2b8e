"""The judge of a campaign: what it accepts, and that it finds what is wrong."""

import math

import msgspec
import numpy as np
import pytest

from benchmarks.chaos.client import LOST, NO_CONNECTION, Ask, Reply
from benchmarks.chaos.judging import Judge
from benchmarks.chaos.load import payload
from benchmarks.chaos.processes import Census
from benchmarks.chaos.rates import Rates
from benchmarks.chaos.scene import POISON, mixed

SCENE = mixed()
STRICT, QUORUM = SCENE.models["strict"], SCENE.models["quorum"]
RAISES = SCENE.poisoned["raise"]


def judged(model, reply, *, poisoned=False, away=False, full=False, took_s=1.0, **parameters):
    """What a judge counts a reply as; `reply` is made of the payload."""
    judge = Judge()
    if away:
        judge.away.begin(10.5)
        judge.away.end(11.5)
    if full:
        judge.full.begin(9.0)
    x = payload(model, 77, 3)
    if poisoned:
        x[1, 0] = POISON
    judge.judge(model, Ask(model.name, x, parameters), reply(x), (10.0, 10.0 + took_s))
    verdict = judge.verdict
    (kind,) = [name for name, count in vars(verdict).items() if count and name != "violations"]
    assert bool(verdict.violations) == (kind in {"wrong", "lost", "untrue"})
    return kind


def answer(members, *, degraded=False, model=STRICT, of=lambda x: x):
    return lambda x: Reply(200, model.answer(of(x), members), members, degraded)


def fails(status, error=""):
    return lambda x: Reply(status, error=error)


ABC = ("a", "b", "c")


@pytest.mark.parametrize(
    ("model", "reply", "options", "kind"),
    [
        (STRICT, answer(ABC), {}, "answered"),
        (STRICT, answer(ABC, of=lambda x: x + 1), {}, "wrong"),
        (STRICT, answer(ABC, of=lambda x: x[::-1]), {}, "wrong"),
        (STRICT, answer(ABC, of=lambda x: x[:2]), {}, "wrong"),
        (STRICT, answer(("a", "b"), degraded=True), {}, "wrong"),
        (STRICT, answer(ABC, degraded=True), {}, "wrong"),
        (STRICT, answer(("b",)), {"members": "b"}, "answered"),
        (STRICT, answer(("c",)), {"members": "b"}, "wrong"),
        (QUORUM, answer(("a", "b"), degraded=True, model=QUORUM), {}, "answered"),
        (QUORUM, answer(("a", "b"), model=QUORUM), {}, "wrong"),
        (QUORUM, answer(("a",), degraded=True, model=QUORUM), {}, "wrong"),
        (STRICT, fails(NO_CONNECTION), {"away": True}, "absent"),
        (STRICT, fails(NO_CONNECTION), {}, "untrue"),
        (STRICT, fails(503), {"away": True}, "absent"),
        (STRICT, fails(503), {}, "untrue"),
        (STRICT, fails(429), {"full": True}, "refused"),
        (STRICT, fails(429), {}, "untrue"),
        (STRICT, fails(504), {"timeout": 1_000_000}, "late"),
        (STRICT, fails(504), {"timeout": 5_000_000}, "untrue"),
        (STRICT, fails(504), {}, "untrue"),
        (STRICT, fails(LOST), {}, "lost"),
        (STRICT, fails(LOST), {"away": True}, "lost"),
        (STRICT, fails(500, "member 'a' failed"), {}, "untrue"),
        (RAISES, fails(500, "member 'raises' failed"), {"poisoned": True}, "failed"),
        (RAISES, fails(500, "member 'raises' failed"), {}, "untrue"),
        (RAISES, fails(500, "it failed"), {"poisoned": True}, "untrue"),
    ],
)
def test_what_a_reply_counts_as(model, reply, options, kind):
    assert judged(model, reply, **options) == kind


def test_an_answer_long_after_its_deadline_is_lost():
    judge = Judge()
    x = payload(STRICT, 1, 1)
    ask = Ask("strict", x, {"timeout": 100_000})
    judge.judge(STRICT, ask, answer(ABC)(x), (0.0, 4.0))
    assert (judge.verdict.answered, judge.verdict.lost) == (1, 1)


def test_no_two_payloads_are_alike():
    for model in (STRICT, SCENE.models["cascade"]):
        rows = np.concatenate([payload(model, serial, 4) for serial in (1, 2, 4097, 4096**2 + 1)])
        assert len(np.unique(rows, axis=0)) == len(rows)


def test_an_answer_is_that_of_one_deployment_of_its_time():
    judge, x = Judge(), payload(STRICT, 1, 2)
    judge.shifts.begin(100.0, 10.0)
    judge.shifts.end(0.0, 11.0)
    for shift, start, kind in (
        (0.0, 9.0, "answered"),
        (100.0, 9.0, "wrong"),
        (0.0, 10.5, "answered"),
        (100.0, 10.5, "answered"),
        (0.0, 12.0, "wrong"),
        (100.0, 12.0, "answered"),
    ):
        before = getattr(judge.verdict, kind)
        reply = Reply(200, STRICT.answer(x, ABC, shift), ABC, False)
        judge.judge(STRICT, Ask("strict", x, {}), reply, (start, start + 0.1))
        assert getattr(judge.verdict, kind) == before + 1
    mixture = np.vstack([STRICT.answer(x[:1], ABC, 0.0), STRICT.answer(x[1:], ABC, 100.0)])
    wrong = judge.verdict.wrong
    judge.judge(STRICT, Ask("strict", x, {}), Reply(200, mixture, ABC, False), (10.5, 10.6))
    assert judge.verdict.wrong == wrong + 1


def with_gap(start, stop):
    """A hundred answers per second for ten seconds, but none in a gap."""
    rates = Rates()
    for hundredth in range(1000):
        now = hundredth / 100 + 0.005
        if not start <= now < stop:
            rates.add(now, 1)
    return rates


def test_when_throughput_is_back():
    assert with_gap(0, 0).typical(0, 10) == pytest.approx(100)
    assert with_gap(0, 0).back_after(5.0, 9.0, 90) == 0.0
    assert with_gap(5.0, 6.0).back_after(5.0, 9.0, 90) == pytest.approx(1.0, abs=0.15)
    assert with_gap(5.2, 6.0).back_after(5.0, 9.0, 90) == pytest.approx(1.0, abs=0.15)
    assert with_gap(5.0, 9.0).back_after(5.0, 9.0, 90) is None
    assert math.isclose(with_gap(2.0, 3.0).back_after(5.0, 9.0, 90), 0.0)


def test_a_census_finds_what_there_is_more_of():
    first = Census(
        processes=4,
        fds={"combiner": 20},
        threads={"combiner": 3},
        rss_mib={"combiner": 30.0},
        shared_files=frozenset(),
        sockets=frozenset({"combiner.ipc"}),
    )
    assert first.more_than(first) == ""
    for change, word in (
        ({"processes": 5}, "processes"),
        ({"fds": {"combiner": 21}}, "descriptors"),
        ({"threads": {"combiner": 14}}, "threads"),
        ({"rss_mib": {"combiner": 90.0}}, "MiB"),
        ({"shared_files": frozenset({"x"})}, "/dev/shm"),
        ({"sockets": frozenset({"combiner.ipc", "x"})}, "sockets"),
    ):
        assert word in msgspec.structs.replace(first, **change).more_than(first)
