"""Counting, merging, summing up, gates, and what people read."""

import json
from collections import Counter

import pytest
from ensembled_client.load.answers import Verdict
from ensembled_client.load.gates import Gates, parse_most_errors
from ensembled_client.load.histogram import Durations
from ensembled_client.load.job import Progress
from ensembled_client.load.lag import Usage
from ensembled_client.load.merging import merge
from ensembled_client.load.options import parse
from ensembled_client.load.plot import bins_of, save_plot
from ensembled_client.load.progress import Board
from ensembled_client.load.recorder import Recorder, Window
from ensembled_client.load.report import document_of, sweep_text, text_of
from ensembled_client.load.summary import summarise
from hypothesis import given
from hypothesis import strategies as st

MS = 1_000_000
IDLE = Usage(1000 * MS, 100 * MS, 0, 100 * MS)
OPTIONS = parse(["http://host:1", "m"])

REQUESTS = st.lists(
    st.tuples(
        st.integers(0, 3000),  # due, ms
        st.integers(0, 500),  # sent so much later
        st.integers(0, 2000),  # answered so much later
        st.integers(1, 4),
        st.sampled_from([None, None, None, "429: full", "504: late"]),
    ),
    max_size=40,
)


def recorded(requests, end_ms=2500, deadline_ms=100):
    recorder = Recorder(Window(500 * MS, end_ms and end_ms * MS), deadline_ms * MS)
    for due, wait, took, rows, error in sorted(requests, key=lambda one: sum(one[:3])):
        recorder.begun(due * MS)
        sent, now = (due + wait) * MS, (due + wait + took) * MS
        recorder.ended(due * MS, sent, now, rows, Verdict(error, error is None))
    return recorder


def tally(requests, lag_ms=0, usage=IDLE, **options):
    lag = Durations()
    lag.record(int(lag_ms * MS))
    return recorded(requests, **options).tally(lag, usage, was_stopped=False)


def summary(requests, is_open=True, **options):
    return summarise(tally(requests, **options), load=100, is_open=is_open, deadline_ms=100)


@given(st.lists(REQUESTS, min_size=1, max_size=4))
def test_processes_together_count_what_one_would(parts):
    merged = merge([tally(part) for part in parts])
    whole = tally([one for part in parts for one in part])
    for name in ("sent", "fine", "errors", "degraded", "answers", "rows", "in_time"):
        assert getattr(merged, name) == getattr(whole, name)
    assert merged.series == dict(sorted(whole.series.items()))
    assert merged.window == whole.window
    assert merged.usages == (IDLE,) * len(parts)
    for name in ("latency", "service"):
        together, alone = (Durations.merged([getattr(one, name)]) for one in (merged, whole))
        assert together.quantiles_ms([0.5, 1]) == alone.quantiles_ms([0.5, 1])


@given(REQUESTS)
def test_the_two_populations(requests):
    """Latency and errors by when they were due, throughput by when they were answered."""
    figures = summary(requests)
    due = [one for one in requests if 500 <= one[0] < 2500]
    fine = [one for one in due if one[4] is None]
    assert (figures.sent, figures.fine) == (len(due), len(fine))
    assert figures.errors == Counter(one[4] for one in due if one[4] is not None)
    assert figures.failed == len(due) - len(fine)
    came = [one for one in requests if one[4] is None and 500 <= sum(one[:3]) < 2500]
    assert figures.seconds == 2
    assert figures.requests_per_s == len(came) / 2
    assert figures.rows_per_s == sum(one[3] for one in came) / 2
    assert figures.good_per_s == sum(one[1] + one[2] <= 100 for one in came) / 2
    assert sum(good for _, good, _ in figures.series) == len(came)
    assert len(figures.series) == 20
    if fine:
        slowest = max(one[1] + one[2] for one in fine)
        assert figures.latency_ms["max"] == pytest.approx(slowest, rel=0.002, abs=0.001)
        served = max(one[2] for one in fine)
        assert figures.service_ms["max"] == pytest.approx(served, rel=0.002, abs=0.001)


def test_an_open_end_is_the_last_answer():
    figures = summary([(600, 0, 100, 1, None), (900, 0, 600, 1, None)], end_ms=None)
    assert figures.seconds == pytest.approx(1.0)
    assert figures.fine == 2


def test_nothing_measured_is_said_not_divided_by():
    figures = summary([], end_ms=400)
    assert (figures.seconds, figures.requests_per_s, figures.series) == (0, 0, ())
    assert "not one good answer was measured" in figures.warnings
    assert "0 sent" in text_of(figures, OPTIONS)


def requests_of(latency_ms, count=100):
    return [(600 + i, 0, latency_ms, 1, None) for i in range(count)]


def test_a_tester_with_time_to_spare_is_not_warned_about():
    assert summary(requests_of(10), lag_ms=0.2).warnings == ()
    assert summary(requests_of(10), lag_ms=0.2, is_open=False).warnings == ()


@pytest.mark.parametrize(
    "usage", [Usage(1000, 950, 0, 950), Usage(1000, 500, 450, 500), Usage(1000, 10, 950, 10)]
)
def test_a_busy_tester_is_the_bottleneck_also_if_it_only_waits_for_a_core(usage):
    (warning,) = summary(requests_of(10), usage=usage).warnings
    assert "bottleneck" in warning
    assert "9" in warning


def test_a_late_tester_says_so():
    (warning,) = summary(requests_of(10), lag_ms=4, is_open=False).warnings
    assert "read answers late" in warning
    recorder = recorded(requests_of(10))
    for i in range(100):
        recorder.late(600 * MS, (604 + i // 90) * MS)
    late = recorder.tally(Durations(), IDLE, was_stopped=False)
    (warning,) = summarise(late, load=1, is_open=True, deadline_ms=None).warnings
    assert "sent requests late" in warning
    assert "p99 5" in warning


def test_requests_that_waited_for_a_connection_are_told():
    recorder = recorded(requests_of(10))
    recorder.waited = 1234
    waited = recorder.tally(Durations(), IDLE, was_stopped=False)
    (warning,) = summarise(waited, load=1, is_open=True, deadline_ms=None).warnings
    assert "1,234 requests were due while all connections were busy" in warning


def test_kinds_of_errors_are_bounded():
    recorder = Recorder(Window(0))
    for number in range(1000):
        recorder.ended(0, 0, 1, 1, Verdict(f"kind {number}"))
    assert recorder.errors.total() == 1000
    assert len(recorder.errors) < 100


# -- gates -------------------------------------------------------------------------------------


def test_gates_say_which_of_them_were_not_passed():
    figures = summary([*requests_of(50, 98), (700, 0, 5, 1, "429: full"), (701, 0, 5, 1, "x")])
    assert Gates().failures(figures) == []
    assert Gates(60, 48, 2).failures(figures) == []
    assert Gates(60, 48, 0.02, errors_are_share=True).failures(figures) == []
    p99, rate, errors = Gates(40, 50, 1).failures(figures)
    assert p99.startswith("--max-p99-ms 40: p99 is 50")
    assert rate == "--min-rate 50: 49 requests/s were answered well"
    assert errors == "--max-errors 1: there were 2"
    (share,) = Gates(max_errors=0.01, errors_are_share=True).failures(figures)
    assert share == "--max-errors 1%: 2.000% of the requests failed"


def test_without_answers_no_gate_of_time_or_rate_is_passed():
    figures = summary([])
    assert len(Gates(1000, 0.1, 0).failures(figures)) == 2


@pytest.mark.parametrize(
    ("text", "bound"), [("0", (0, False)), ("12", (12, False)), ("0.5%", (0.005, True))]
)
def test_most_errors_are_a_count_or_a_share(text, bound):
    assert parse_most_errors(text) == bound


@pytest.mark.parametrize("text", ["", "%", "x", "-1", "101%", "nan", "inf"])
def test_other_bounds_are_refused(text):
    with pytest.raises(ValueError, match="not a bound"):
        parse_most_errors(text)


# -- reports -----------------------------------------------------------------------------------


def test_the_report_holds_the_figures():
    requests = [*requests_of(50), *((800, 0, 5, 1, f"{kind}: x") for kind in range(12))]
    text = text_of(summary(requests), OPTIONS)
    assert "50.0 requests/s" in text
    assert "within 100 ms" in text
    assert "from the intended start" in text
    assert "100 answers degraded" in text
    assert "1 x 0: x" in text
    assert "2 x of 2 other kinds" in text
    assert "WARNING" not in text
    closed = text_of(summary(requests, is_open=False), OPTIONS)
    assert "from the sending" in closed


def test_the_document_is_json_and_its_histogram_can_be_merged():
    document = json.loads(json.dumps(document_of(summary(requests_of(50)), ["a gate"])))
    assert document["requests"]["answered"] == 100
    assert document["latency_from"] == "intended start"
    assert document["failed_gates"] == ["a gate"]
    assert document["per_second"] == [
        {"answered": 100, "failed": 0},
        {"answered": 0, "failed": 0},
    ]
    merged = Durations()
    merged._histogram.decode_and_add(document["latency_hdr"])
    assert merged.count == 100


def test_a_sweep_is_a_table():
    text = sweep_text([summary(requests_of(50)), summary(requests_of(70))], OPTIONS)
    assert len(text.splitlines()) == 5


def test_progress_is_of_all_processes():
    now = [10.0]
    board = Board(lambda: now[0])
    board.update(Progress(0, 100, 1, 4, (5 * MS,)))
    board.update(Progress(1, 50, 0, 3, (1 * MS, 2 * MS)))
    now[0] = 12.0
    text = board.text()
    assert text == "  2.0 s  75/s  150 answered  1 failed  7 in flight  p50 2, p99 5 ms"
    assert len(text) < 80


@pytest.mark.parametrize("name", ["a.svg", "a.png"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("is_open", [True, False])
def test_plots_are_written(tmp_path, name, count, is_open):
    requests = [*requests_of(50), (700, 0, 5, 1, "429: full")]
    save_plot(tmp_path / name, [summary(requests, is_open)] * count, OPTIONS)
    start = (tmp_path / name).read_bytes()[:8]
    assert start in {b"\x89PNG\r\n\x1a\n", b"<?xml ve"}


def test_a_plot_of_nothing_is_written(tmp_path):
    save_plot(tmp_path / "a.svg", [summary([], end_ms=400)], OPTIONS)
    save_plot(tmp_path / "b.svg", [summary([])], OPTIONS)


@given(st.integers(0, 500))
def test_bins_are_few_and_whole(length):
    width_s, bins = bins_of([(i / 10, 1, 0) for i in range(length)])
    assert len(bins) <= 80
    if length > 1:
        assert all(good == round(width_s * 10) for good, _ in bins)
        assert len(bins) >= min(length, 40)
