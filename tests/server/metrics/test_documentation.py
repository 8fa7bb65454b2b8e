"""docs/metrics.md and the alerts against the code; that each metric is told is a process test."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from scraping import documented_queries, documented_words

from server import errors
from server.engine.statistics import OUTCOMES, REASONS
from server.errors import RequestError
from tests.container.promql import problems

ALERTS = Path(__file__).parents[3] / "configs/prometheus/alerts.yml"
RULES = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)"
)


def request_errors():
    found = [getattr(errors, name) for name in errors.__all__]
    return [each for each in found if isinstance(each, type) and issubclass(each, RequestError)]


def test_outcomes_and_reasons_are_documented():
    assert documented_words("Outcomes") == set(OUTCOMES)
    assert documented_words("Refusals") == set(REASONS)


def test_every_error_has_a_known_outcome():
    for error in request_errors():
        assert error.outcome in OUTCOMES, error
        assert error.outcome != "internal" or error.http_status == 500, error
        assert error.reason in {"", *REASONS}, error


@pytest.mark.parametrize("query", documented_queries())
def test_documented_queries_use_existing_metrics(query):
    assert problems(query) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_have_a_severity_and_a_summary(rule):
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"]


def series(name, values, **labels):
    inside = ",".join(f'{key}="{value}"' for key, value in {**HERE, **labels}.items())
    return {"series": f"{name}{{{inside}}}", "values": values}


HERE = {"instance": "here", "job": "ensembled"}
RISING, STEADY, ON, OFF = "0+60x60", "5x60", "1x60", "0x60"
REQUESTS = "ensembled_requests_total"


def requests(outcome, values):
    return series(REQUESTS, values, model="m", outcome=outcome)


#: For each alert, series that ring it after half an hour, and some that don't.
RINGING = {
    "EnsembledDown": ([series("up", OFF)], [series("up", ON)]),
    "EnsembledNotReady": (
        [series("ensembled_ready", OFF), series("ensembled_draining", OFF)],
        [series("ensembled_ready", OFF), series("ensembled_draining", ON)],
    ),
    "EnsembledModelNotReady": (
        [series("ensembled_model_ready", OFF, model="m"), series("ensembled_draining", OFF)],
        [series("ensembled_model_ready", OFF, model="m"), series("ensembled_draining", ON)],
    ),
    "EnsembledMembersMissing": (
        [
            series("ensembled_model_members_up", "2x60", model="m"),
            series("ensembled_model_members", "3x60", model="m"),
        ],
        [
            series("ensembled_model_members_up", "3x60", model="m"),
            series("ensembled_model_members", "3x60", model="m"),
        ],
    ),
    "EnsembledDegraded": (
        [requests("ok", RISING), requests("degraded", "0+6x60")],
        [requests("ok", RISING), requests("degraded", STEADY)],
    ),
    "EnsembledErrors": (
        [requests("ok", RISING), requests("internal", "0+6x60")],
        [requests("ok", RISING), requests("invalid", "0+6x60")],
    ),
    "EnsembledOverloaded": (
        [requests("ok", RISING), requests("queue_full", "0+6x60")],
        [requests("ok", RISING), requests("queue_full", "0+1x60")],
    ),
    "EnsembledRestarts": (
        [series("ensembled_process_restarts_total", "0+1x60", role="combiner", device="")],
        [series("ensembled_process_restarts_total", STEADY, role="combiner", device="")],
    ),
    "EnsembledWorkerGivenUp": (
        [series("ensembled_worker_given_up", ON, device="cpu:0")],
        [series("ensembled_worker_given_up", OFF, device="cpu:0")],
    ),
    "EnsembledEventLoopBehind": (
        [
            series("ensembled_event_loop_lag_seconds_bucket", OFF, le="0.1"),
            series("ensembled_event_loop_lag_seconds_bucket", RISING, le="1.0"),
            series("ensembled_event_loop_lag_seconds_bucket", RISING, le="+Inf"),
        ],
        [
            series("ensembled_event_loop_lag_seconds_bucket", RISING, le="0.1"),
            series("ensembled_event_loop_lag_seconds_bucket", RISING, le="+Inf"),
        ],
    ),
    "EnsembledFilesRunOut": (
        [
            series("ensembled_process_open_fds", "95x60", role="front-end", device=""),
            series("ensembled_process_max_fds", "100x60", role="front-end", device=""),
        ],
        [
            series("ensembled_process_open_fds", "50x60", role="front-end", device=""),
            series("ensembled_process_max_fds", "100x60", role="front-end", device=""),
        ],
    ),
    "EnsembledMetricsIncomplete": (
        [series("ensembled_metrics_errors_total", "0+1x60", collector="fleet")],
        [series("ensembled_metrics_errors_total", STEADY, collector="fleet")],
    ),
}


def group(rule, given, *, rings):
    """A unit test of promtool."""
    return {
        "interval": "1m",
        "input_series": given,
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{rule}", alertstate="firing"}})',
                "eval_time": "30m",
                "exp_samples": [{"labels": "{}", "value": 1}] if rings else [],
            }
        ],
    }


@needs_promtool
def test_each_alert_fires_when_it_should_and_only_then(tmp_path):
    assert set(RINGING) == {rule["alert"] for rule in RULES}
    tests = [
        group(rule, given, rings=rings)
        for rule, (bad, good) in RINGING.items()
        for given, rings in ((bad, True), (good, False))
    ]
    path = tmp_path / "tests.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": tests}))
    told = subprocess.run(
        ["promtool", "test", "rules", str(path)], check=False, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stdout + told.stderr
