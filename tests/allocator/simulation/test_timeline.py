import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocator.simulation.timeline import SharedTimeline, Timeline


def run(timeline):
    """What happens, as {payload: time}."""
    times = {}
    while timeline.next_time() < float("inf"):
        call, payload = timeline.pop()
        call(payload)
        times[payload] = timeline.now
    return times


def nothing(_):
    pass


def test_what_happens_at_one_moment_keeps_its_order():
    timeline, seen = Timeline(), []
    for name in "abc":
        timeline.at(1.0, seen.append, name)
    timeline.at(0.5, seen.append, "first")
    run(timeline)
    assert seen == ["first", "a", "b", "c"]


@pytest.mark.parametrize("make", [Timeline, lambda: SharedTimeline(1)])
def test_cancelled_work_never_ends(make):
    timeline = make()
    serial = timeline.work(1.0, nothing, "cancelled", 1, True)
    timeline.work(2.0, nothing, "kept", 0, False)
    timeline.cancel(serial)
    assert run(timeline) == {"kept": 2.0}


def test_work_for_which_there_are_cores_runs_at_full_speed():
    timeline = SharedTimeline(3)
    timeline.work(1.0, nothing, "process", 1, False)
    timeline.work(1.5, nothing, "worker", 2, True)
    timeline.work(9.0, nothing, "gpu", 0, True)
    assert run(timeline) == {"process": 1.0, "worker": 1.5, "gpu": 9.0}


def test_equals_share_a_core_equally():
    timeline = SharedTimeline(1)
    timeline.work(1.0, nothing, "short", 1, False)
    timeline.work(2.0, nothing, "long", 1, False)
    assert run(timeline) == {"short": pytest.approx(2.0), "long": pytest.approx(3.0)}


def test_workers_are_nice():
    timeline = SharedTimeline(1)
    timeline.work(1.0, nothing, "process", 1, False)
    timeline.work(1.0, nothing, "worker", 1, True)
    times = run(timeline)
    assert times["process"] == pytest.approx((1024 + 335) / 1024)
    assert times["worker"] == pytest.approx(2.0)


def test_nobody_gets_more_than_its_cores():
    timeline = SharedTimeline(2)
    timeline.work(1.0, nothing, "process", 1, False)
    timeline.work(2.0, nothing, "workers", 2, True)
    times = run(timeline)
    # The process has a core for itself, the worker's two threads share the other one until then.
    assert times["process"] == pytest.approx(1.0)
    assert times["workers"] == pytest.approx(2.5)


@given(
    st.integers(1, 4),
    st.lists(
        st.tuples(st.floats(0.001, 1), st.integers(0, 3), st.booleans(), st.floats(0, 2)),
        min_size=1,
        max_size=12,
    ),
)
def test_the_cores_do_all_work_and_not_more(cores, works):
    timeline = SharedTimeline(cores)
    for index, (seconds, wide, nice, start) in enumerate(works):
        timeline.at(
            start,
            lambda _, i=index, s=seconds, w=wide, n=nice: timeline.work(s, nothing, i, w, n),
            f"start {index}",
        )
    times = run(timeline)
    for index, (seconds, wide, _, start) in enumerate(works):
        assert times[index] >= start + seconds - 1e-9
        if not wide:
            assert times[index] == pytest.approx(start + seconds)
    total = sum(seconds * wide for seconds, wide, _, _ in works)
    assert timeline.now >= total / cores - 1e-9
