"""Merged statistics, figures, gates, reports and plots."""

import json
from collections import Counter

import pytest
from ensembled_client.load.generator import Progress
from ensembled_client.load.options import UsageError, parse_error_limit, parse_options
from ensembled_client.load.report import (
    ProgressLine,
    bins_of,
    command_document,
    report_text,
    save_plot,
    sweep_text,
)
from ensembled_client.load.stats import (
    CpuUsage,
    RequestResult,
    RequestStats,
    Window,
    merge_stats,
)
from ensembled_client.load.summary import Gates, Summary
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

MS = 1_000_000
IDLE = CpuUsage(1000 * MS, 100 * MS, 0, 100 * MS)
OPTIONS = parse_options(["http://host:1", "m"])

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
    stats = RequestStats(Window(500 * MS, end_ms and end_ms * MS), deadline_ms * MS)
    for due, wait, took, rows, error in sorted(requests, key=lambda one: sum(one[:3])):
        stats.record_start(due * MS)
        sent, now = (due + wait) * MS, (due + wait + took) * MS
        stats.record_end(due * MS, sent, now, rows, RequestResult(error, error is None))
    return stats


def closed(stats, lag_ms=0, usage=IDLE):
    """The statistics as a load process hands them over."""
    stats.loop_lag.record(int(lag_ms * MS))
    stats.usages = (usage,)
    stats.close_window()
    return stats


def summary(requests, is_open=True, lag_ms=0, usage=IDLE, **options):
    return Summary(closed(recorded(requests, **options), lag_ms, usage), 100, is_open, 100)


@given(st.lists(REQUESTS, min_size=1, max_size=4))
def test_processes_together_count_what_one_would(parts):
    merged = merge_stats([closed(recorded(part)) for part in parts])
    whole = closed(recorded([one for part in parts for one in part]))
    for name in (
        "sent", "succeeded", "errors", "degraded", "responses", "rows", "in_time", "good_bins",
        "error_bins", "window",
    ):  # fmt: skip
        assert getattr(merged, name) == getattr(whole, name)
    assert merged.usages == (IDLE,) * len(parts)
    for name in ("latency", "service"):
        together, alone = (getattr(one, name) for one in (merged, whole))
        assert together.quantiles_ms([0.5, 1]) == alone.quantiles_ms([0.5, 1])


@given(REQUESTS)
def test_the_two_populations(requests):
    """Latency and errors by when they were due, throughput by when they were answered."""
    figures = summary(requests)
    due = [one for one in requests if 500 <= one[0] < 2500]
    fine = [one for one in due if one[4] is None]
    assert (figures.stats.sent, figures.stats.succeeded) == (len(due), len(fine))
    assert figures.errors == Counter(one[4] for one in due if one[4] is not None)
    assert figures.failed == len(due) - len(fine)
    came = [one for one in requests if one[4] is None and 500 <= sum(one[:3]) < 2500]
    assert figures.seconds == 2
    assert figures.requests_per_s == len(came) / 2
    assert figures.rows_per_s == sum(one[3] for one in came) / 2
    assert figures.goodput_per_s == sum(one[1] + one[2] <= 100 for one in came) / 2
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
    assert figures.stats.succeeded == 2


def test_nothing_measured_is_said_not_divided_by():
    figures = summary([], end_ms=400)
    assert (figures.seconds, figures.requests_per_s, figures.series) == (0, 0, [])
    assert "not one good response was measured" in figures.warnings
    assert "0 sent" in report_text(figures, OPTIONS)


def requests_of(latency_ms, count=100):
    return [(600 + i, 0, latency_ms, 1, None) for i in range(count)]


def test_a_tester_with_time_to_spare_is_not_warned_about():
    assert summary(requests_of(10), lag_ms=0.2).warnings == []
    assert summary(requests_of(10), lag_ms=0.2, is_open=False).warnings == []


@pytest.mark.parametrize(
    "usage",
    [CpuUsage(1000, 950, 0, 950), CpuUsage(1000, 500, 450, 500), CpuUsage(1000, 10, 950, 10)],
)
def test_a_busy_tester_is_the_bottleneck_also_if_it_only_waits_for_a_core(usage):
    (warning,) = summary(requests_of(10), usage=usage).warnings
    assert "bottleneck" in warning
    assert "9" in warning


def test_a_late_tester_says_so():
    (warning,) = summary(requests_of(10), lag_ms=4, is_open=False).warnings
    assert "read responses late" in warning
    stats = recorded(requests_of(10))
    for i in range(100):
        stats.record_lag(600 * MS, (604 + i // 90) * MS)
    (warning,) = Summary(closed(stats), 1, is_open=True, deadline_ms=None).warnings
    assert "sent requests late" in warning
    assert "p99 5" in warning


def test_requests_that_waited_for_a_connection_are_a_warning():
    stats = recorded(requests_of(10))
    stats.queued = 1234
    (warning,) = Summary(closed(stats), 1, is_open=True, deadline_ms=None).warnings
    assert "1,234 requests were due while all connections were busy" in warning


def test_kinds_of_errors_are_bounded():
    stats = RequestStats(Window(0))
    for number in range(1000):
        stats.record_end(0, 0, 1, 1, RequestResult(f"kind {number}"))
    assert stats.errors.total() == 1000
    assert len(stats.errors) < 100


# -- gates -------------------------------------------------------------------------------------


def test_gates_say_which_of_them_were_not_passed():
    figures = summary([*requests_of(50, 98), (700, 0, 5, 1, "429: full"), (701, 0, 5, 1, "x")])
    assert Gates().failures(figures) == []
    assert Gates(60, 48, 2).failures(figures) == []
    assert Gates(60, 48, 0.02, errors_are_share=True).failures(figures) == []
    p99, rate, errors = Gates(40, 50, 1).failures(figures)
    assert p99.startswith("--max-p99-ms 40: p99 is 50")
    assert rate == "--min-rate 50: there were 49 good responses/s"
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
    assert parse_error_limit(text) == bound


@pytest.mark.parametrize("text", ["", "%", "x", "-1", "101%", "nan", "inf"])
def test_other_bounds_are_refused(text):
    with pytest.raises(UsageError, match="should be like 10 or 0.5%"):
        parse_error_limit(text)


# -- reports -----------------------------------------------------------------------------------


def test_the_report_holds_the_figures():
    requests = [*requests_of(50), *((800, 0, 5, 1, f"{kind}: x") for kind in range(12))]
    text = report_text(summary(requests), OPTIONS)
    assert "50.0 requests/s" in text
    assert "within 100 ms" in text
    assert "from the intended start" in text
    assert "100 responses degraded" in text
    assert "1 x 0: x" in text
    assert "2 x of 2 other kinds" in text
    assert "WARNING" not in text
    closed = report_text(summary(requests, is_open=False), OPTIONS)
    assert "from the sending" in closed


def test_the_document_is_json_and_its_histogram_can_be_merged():
    whole = command_document(OPTIONS, [summary(requests_of(50))], [["a gate"]])
    (document,) = json.loads(json.dumps(whole))["tests"]
    assert document["requests"]["answered"] == 100
    assert document["latency_from"] == "intended start"
    assert document["failed_gates"] == ["a gate"]
    assert document["per_second"] == [
        {"answered": 100, "failed": 0},
        {"answered": 0, "failed": 0},
    ]
    merged = HdrHistogram(100, 3600 * 10**9, 3)
    for _ in range(2):
        merged.decode_and_add(document["latency_hdr"])
    assert merged.get_total_count() == 200


def test_a_sweep_is_a_table():
    text = sweep_text([summary(requests_of(50)), summary(requests_of(70))], OPTIONS)
    assert len(text.splitlines()) == 5


def test_progress_is_of_all_processes():
    line = ProgressLine()
    line.update(Progress(0, 100, 1, 4, (5 * MS,)), 10.0)
    text = line.update(Progress(1, 50, 0, 3, (1 * MS, 2 * MS)), 12.0)
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
