import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.request import Answer
from server.engine.statistics import (
    TIMES_S,
    Histogram,
    InstanceCounters,
    MemberCounters,
    ModelCounters,
    member_statistics,
    model_statistics,
)
from server.errors import (
    ClientGone,
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    MemberFailed,
    QueueFull,
    RequestTimeout,
    RequestTooLarge,
    Unauthenticated,
    Unavailable,
    UnknownModel,
    UnsupportedMediaType,
)
from server.http_api.body import Disconnected

PARTS = {
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
}


def test_a_model_counts_its_requests():
    counters = ModelCounters()
    answer = Answer(b"", 3, 1, False, None, accepted=10.5, started=11.0, ended=13.0)
    counters.succeed(10.0, answer)
    counters.succeed(10.0, answer)
    counters.fail(5.0, InvalidRequest("x"))
    document = model_statistics("m", "1", counters)
    stats = document["inference_stats"]
    assert set(stats) == PARTS
    assert document["inference_count"] == 6
    assert document["execution_count"] == 2
    assert document["last_inference"] > 0
    assert (stats["success"]["count"], stats["fail"]["count"]) == (2, 1)
    assert stats["compute_input"] == {"count": 2, "ns": 1_000_000_000}
    assert stats["queue"] == {"count": 2, "ns": 1_000_000_000}
    assert stats["compute_infer"] == {"count": 2, "ns": 4_000_000_000}
    parts = ("compute_input", "queue", "compute_infer", "compute_output")
    assert abs(sum(stats[part]["ns"] for part in parts) - stats["success"]["ns"]) < 10


def test_a_member_counts_its_rows_and_batches():
    counters = MemberCounters()
    counters.run(4, 0, waited_s=0.5, elapsed_s=0.25)
    counters.run(3, 1, waited_s=0.0, elapsed_s=0.75)
    counters.run(1, 0, waited_s=1.0, elapsed_s=2.0)
    document = member_statistics("m", "1", counters)
    stats = document["inference_stats"]
    assert set(stats) == PARTS
    assert (document["inference_count"], document["execution_count"]) == (8, 3)
    assert stats["fail"] == {"count": 1, "ns": 750_000_000}
    assert stats["queue"] == {"count": 9, "ns": 3_000_000_000}
    assert stats["compute_infer"] == {"count": 8, "ns": 5_250_000_000}
    batches = {batch["batch_size"]: batch["compute_infer"] for batch in document["batch_stats"]}
    assert batches == {
        1: {"count": 1, "ns": 2_000_000_000},
        4: {"count": 2, "ns": 1_000_000_000},
    }


def test_a_batch_that_nobody_wanted_any_more_is_none():
    counters = MemberCounters()
    counters.run(0, 0, waited_s=0.5, elapsed_s=0.001)
    document = member_statistics("m", "1", counters)
    assert (document["execution_count"], document["batch_stats"]) == (0, [])
    assert document["last_inference"] == 0


def test_nothing_has_happened_yet():
    for document in (
        model_statistics("m", "1", ModelCounters()),
        member_statistics("m", "1", MemberCounters()),
    ):
        assert document["last_inference"] == 0
        assert all(part == {"count": 0, "ns": 0} for part in document["inference_stats"].values())


def test_answers_are_whole_or_degraded():
    counters = ModelCounters()
    for degraded in (False, True, False):
        counters.succeed(1.0, Answer(b"", 3, 1, degraded, None, 1.0, 1.0, 1.0))
    assert counters.outcomes == {"ok": 2, "degraded": 1}
    assert counters.refusals == {}


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (InvalidRequest("x"), "invalid", ""),
        (UnsupportedMediaType("x"), "invalid", ""),
        (Unauthenticated("x"), "unauthenticated", "unauthenticated"),
        (Forbidden("x"), "forbidden", "forbidden"),
        (UnknownModel("x"), "unknown_model", ""),
        (RequestTimeout("x"), "body_timeout", "body_timeout"),
        (RequestTooLarge("x"), "too_large", "too_large"),
        (QueueFull(), "queue_full", "waiting"),
        (QueueFull(reason="client"), "queue_full", "client"),
        (Unavailable("x"), "unavailable", "no_quorum"),
        (Unavailable("x", "draining"), "unavailable", "draining"),
        (ClientGone(), "disconnected", ""),
        (DeadlineExceeded(), "deadline", ""),
        (MemberFailed("x"), "member_failed", ""),
        (Disconnected(), "disconnected", ""),
        (asyncio.CancelledError(), "disconnected", ""),
        (ZeroDivisionError(), "internal", ""),
    ],
)
def test_errors_are_counted_by_what_they_mean(error, outcome, reason):
    counters = ModelCounters()
    counters.fail(1.0, error)
    assert counters.outcomes == {outcome: 1}
    assert counters.refusals == ({reason: 1} if reason else {})
    assert counters.failure.count == 1


def test_a_job_that_nobody_wanted_any_more_was_work_all_the_same():
    counters = InstanceCounters()
    counters.run(3, 0.5)
    counters.run(0, 0.25)
    assert counters.busy_s == 0.75
    assert (counters.rows.count, counters.rows.sum) == (1, 3)
    assert (counters.times.count, counters.times.sum) == (1, 0.5)


def test_a_bound_belongs_to_what_is_below_it():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.cumulated() == [2, 4, 5]
    assert (histogram.count, histogram.sum) == (5, 7.5)


@given(st.lists(st.floats(0, 100) | st.sampled_from(TIMES_S)))
def test_each_bound_counts_what_is_not_above_it(values):
    one_by_one, together = Histogram(), Histogram()
    for value in values:
        one_by_one.observe(value)
    together.observe_all(np.array(values))
    expected = [sum(value <= bound for value in values) for bound in TIMES_S]
    assert one_by_one.cumulated() == together.cumulated() == [*expected, len(values)]
    assert together.sum == pytest.approx(one_by_one.sum)
