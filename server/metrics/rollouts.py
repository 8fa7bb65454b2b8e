"""Metrics of roll-outs.

Runs in the front-end's event loop. The figures of the roll-outs that are running flow in, metric
families flow out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from server.inference.inference import Inference
from server.metrics.exposition import Counters, Family, Gauges, Histograms, families
from server.rollout.figures import VersionFigures

__all__ = ["collect_rollouts"]

_LABELS = ("model", "version")
#: Of the `VersionFigures` of both versions.
_VERSION_METRICS = (
    Counters.define(
        "ensembled_rollout_requests_total",
        "Requests to a version under roll-out, and to the present one, that were answered or "
        "failed.",
        lambda figures: figures.requests,
    ),
    Counters.define(
        "ensembled_rollout_rows_total",
        "Rows of those that were answered.",
        lambda figures: figures.rows,
    ),
    Counters.define(
        "ensembled_rollout_errors_total",
        "Those that failed for a reason of the version's own.",
        lambda figures: figures.errors,
    ),
    Histograms.define(
        "ensembled_rollout_duration_seconds",
        "Duration from when a worker got the last job of an answer until it was combined.",
        lambda figures: figures.times,
    ),
)
#: Of a `Rollout`, for its new version.
_ROLLOUT_METRICS = (
    Gauges.define(
        "ensembled_rollout_share_ratio",
        "The share of the requests without a version that a version under roll-out gets.",
        lambda rollout: rollout.spec.percent / 100,
    ),
    Counters.define(
        "ensembled_rollout_compared_rows_total",
        "Rows that a shadow and the present version have answered.",
        lambda rollout: rollout.figures.compared_rows,
    ),
    Counters.define(
        "ensembled_rollout_disagreeing_rows_total",
        "Those of them on which the two disagree.",
        lambda rollout: rollout.figures.disagreeing_rows,
    ),
    Counters.define(
        "ensembled_rollout_dropped_copies_total",
        "Requests that were not copied to a shadow, because others came first.",
        lambda rollout: rollout.figures.dropped,
    ),
)


async def collect_rollouts(inference: Inference) -> AsyncIterator[Family[Any]]:
    """Yield the metrics of both versions, then those of the roll-outs."""
    for family in families(_VERSION_METRICS, _LABELS, list(_versions(inference))):
        yield family
    running = inference.rollouts.running.items()
    rollouts = [((name, one.spec.version), one) for name, one in running]
    for family in families(_ROLLOUT_METRICS, _LABELS, rollouts):
        yield family


def _versions(inference: Inference) -> Iterator[tuple[tuple[str, str], VersionFigures]]:
    for name, rollout in inference.rollouts.running.items():
        yield (name, inference.find(name).model.version), rollout.figures.present
        yield (name, rollout.spec.version), rollout.figures.new
