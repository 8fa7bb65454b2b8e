"""A short campaign: faults of every quick kind, under load, and what the judge makes of it."""

from collections import Counter

import pytest

from benchmarks.chaos.campaign import Plan
from benchmarks.chaos.faults import QUICK
from benchmarks.chaos.runner import run_campaign
from benchmarks.chaos.scene import mixed
from benchmarks.chaos.table import text_of


@pytest.mark.chaos
@pytest.mark.process
@pytest.mark.slow
def test_a_short_campaign_breaks_no_promise(tmp_path):
    plan = Plan(
        seed=261,
        faults=14,
        kinds=QUICK,
        clients=6,
        margin_s=20.0,
        within_s=60.0,
        quiet_s=0.2,
        calibration_s=1.0,
    )
    log = tmp_path / "log.txt"
    report = run_campaign(plan, mixed(), log_file=log)
    assert report.is_clean, f"{text_of(report)}\n{log.read_text()}"
    kinds = Counter(one.kind for one in report.happened)
    assert kinds.total() == plan.faults
    assert {"kill a worker", "kill the combiner", "kill the front-end"} <= set(kinds)
    assert {"a row makes a Python member leak", "a row makes a Python member raise"} <= set(kinds)
    assert {"reload", "reload and kill"} <= set(kinds)
    assert report.verdict.answered > 100
