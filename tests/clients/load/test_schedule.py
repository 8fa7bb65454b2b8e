"""When requests are due."""

import itertools
import json

import pytest
from ensembled_client.load.schedule import Schedule, divide, read_trace, share
from hypothesis import given
from hypothesis import strategies as st

from allocator.simulation import read_trace as simulated_trace

RATES = st.floats(0.5, 5000)


@given(RATES, st.integers(1, 300))
def test_a_constant_rate_has_equal_gaps_and_does_not_drift(rate, count):
    due = [ns for ns, _ in itertools.islice(Schedule(rate=rate).arrivals(), count)]
    assert due == [round(i * 1e9 / rate) for i in range(count)]


@given(st.floats(1, 1000), st.integers(0, 2**32))
def test_random_gaps_repeat_with_the_seed_and_have_the_mean(rate, seed):
    schedule = Schedule(rate=rate, poisson=True, count=2000, seed=seed)
    due = [ns for ns, _ in schedule.arrivals()]
    assert due == [ns for ns, _ in schedule.arrivals()]
    assert due == sorted(due)
    # The sum of 2000 exponential gaps: seven standard deviations (2.2% each).
    assert due[-1] == pytest.approx(2000 / rate * 1e9, rel=0.16)


@given(st.booleans(), RATES, st.integers(1, 7), st.integers(1, 200), st.floats(0, 2))
def test_the_shares_of_all_processes_are_the_schedule(poisson, rate, processes, count, warmup_s):
    schedule = Schedule(rate=rate, poisson=poisson, count=count, warmup_s=warmup_s, seed=count)
    parts = [list(share(schedule.arrivals(), i, processes)) for i in range(processes)]
    assert sorted(itertools.chain(*parts)) == list(schedule.arrivals())


@given(RATES, st.floats(0, 3), st.floats(0.01, 3))
def test_a_duration_ends_the_schedule_after_the_warm_up(rate, warmup_s, duration_s):
    schedule = Schedule(rate=rate, warmup_s=warmup_s, duration_s=duration_s)
    due = [ns for ns, _ in schedule.arrivals()]
    end_ns = round(warmup_s * 1e9) + round(duration_s * 1e9)
    assert all(ns < end_ns for ns in due)
    assert len(due) == pytest.approx((warmup_s + duration_s) * rate, abs=1.01)


@given(RATES, st.floats(0, 3), st.integers(1, 100))
def test_a_count_is_of_the_measurement_alone(rate, warmup_s, count):
    schedule = Schedule(rate=rate, warmup_s=warmup_s, count=count)
    begin_ns = round(warmup_s * 1e9)
    assert sum(ns >= begin_ns for ns, _ in schedule.arrivals()) == count


def test_a_trace_is_kept_to_after_a_warm_up_at_its_mean_rate():
    trace = ((0.0, 3), (0.5, 1), (0.5, 2), (1.0, 1))
    arrivals = list(Schedule(trace=trace, warmup_s=1.0).arrivals())
    assert arrivals[:4] == [(0, 3), (250_000_000, 3), (500_000_000, 3), (750_000_000, 3)]
    assert arrivals[4:] == [(1_000_000_000 + round(s * 1e9), rows) for s, rows in trace]


@given(st.integers(1, 1000), st.integers(1, 9))
def test_nothing_is_lost_when_a_number_is_divided(whole, of):
    parts = [divide(whole, index, of) for index in range(of)]
    assert sum(parts) == whole
    assert max(parts) - min(parts) <= 1


TRACES = st.lists(
    st.tuples(st.floats(0, 1000), st.one_of(st.none(), st.integers(1, 9))), min_size=1
).map(lambda entries: sorted(entries, key=lambda entry: entry[0]))


@given(TRACES, st.booleans(), st.booleans(), st.integers(1, 5))
def test_traces_are_read_as_simulate_reads_them(entries, as_json, titled, rows):
    if as_json:
        document = json.dumps([s if own is None else [s, own] for s, own in entries])
    else:
        lines = [f"{s!r}" if own is None else f"{s!r},{own}" for s, own in entries]
        document = "\n".join((["seconds,rows"] if titled else []) + ["# a comment", "", *lines])
    assert read_trace(document, rows=rows) == simulated_trace(document, rows=rows).requests


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("", "empty"),
        ("[]", "empty"),
        ("[1,", "not JSON"),
        ("seconds\n1\nx", "line 3: should be seconds"),
        ("1,2,3", "line 1: should be seconds"),
        ("2\n1", "line 2: 1 s should not be before 2 s"),
        ("-1", "0 or more"),
        ("nan", "0 or more"),
        ("1,0", "1 or more"),
        ('[{"a": 1}]', "entry 1: should be seconds"),
    ],
)
def test_a_wrong_trace_is_an_error_of_one_line(document, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_trace(document)
    assert "\n" not in str(caught.value)
