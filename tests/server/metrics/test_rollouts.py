"""Metrics of roll-outs from their figures."""

import asyncio
from types import SimpleNamespace

from server.inference.rollouts import Rollouts
from server.metrics.registry import MetricsRegistry
from server.metrics.rollouts import collect_rollouts
from server.rollout.agreement import Agreement
from server.rollout.spec import RolloutSpec


def scrape(*specs):
    async def run():
        present = SimpleNamespace(model=SimpleNamespace(version="1"))
        inference = SimpleNamespace(find=lambda name, version="": present)
        inference.rollouts = Rollouts(inference, specs)
        for one in inference.rollouts.running.values():
            figures = one.figures
            figures.present.answer(5, 0.02)
            figures.new.answer(5, 0.03)
            figures.new.errors += 1
            figures.agree(Agreement(5, 2.0, 0.1))
            figures.dropped += 3
        registry = MetricsRegistry({"rollouts": lambda: collect_rollouts(inference)})
        return (await registry.scrape(""))[0].decode()

    return asyncio.run(run())


def test_both_versions_and_what_was_compared():
    text = scrape(RolloutSpec(model="m", version="2", mode="shadow", percent=50))
    for line in (
        'ensembled_rollout_requests_total{model="m",version="1"} 1.0',
        'ensembled_rollout_requests_total{model="m",version="2"} 2.0',
        'ensembled_rollout_rows_total{model="m",version="2"} 5.0',
        'ensembled_rollout_errors_total{model="m",version="2"} 1.0',
        'ensembled_rollout_errors_total{model="m",version="1"} 0.0',
        'ensembled_rollout_duration_seconds_bucket{le="0.025",model="m",version="1"} 1.0',
        'ensembled_rollout_share_ratio{model="m",version="2"} 0.5',
        'ensembled_rollout_compared_rows_total{model="m",version="2"} 5.0',
        'ensembled_rollout_disagreeing_rows_total{model="m",version="2"} 2.0',
        'ensembled_rollout_dropped_copies_total{model="m",version="2"} 3.0',
    ):
        assert line in text.splitlines()


def test_without_roll_outs_there_are_no_samples():
    lines = scrape().splitlines()
    assert not [line for line in lines if line.startswith("ensembled_rollout")]
