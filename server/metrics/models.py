"""Metrics of models and their requests.

Runs in the front-end's event loop. The counters of `Inference` and the state of the engine flow in,
metric families flow out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

from allocator.dispatch.flows import HIGH, NORMAL
from server.engine.statistics import OUTCOMES, REASONS, ModelCounters, RequestTimes
from server.inference.inference import Endpoint, Inference
from server.metrics.exposition import (
    Counters,
    Family,
    Gauges,
    Histograms,
    families,
)

__all__ = ["ModelMetrics"]

#: No model's name: it has characters that names don't have.
_NO_MODEL = "(none)"
_MODEL = ("model",)
_PRIORITIES = {"high": HIGH, "normal": NORMAL}
#: Of `ModelCounters`.
_ROW_METRICS = (
    Counters.define(
        "ensembled_rows_total", "Rows that were answered.", lambda counters: counters.rows
    ),
    Counters.define(
        "ensembled_predictions_saved_total",
        "Predictions of members, one per row, that turned out not to be needed.",
        lambda counters: counters.saved,
    ),
)


class ModelMetrics:
    """Collects the metrics of models.

    Args:
        inference: the models.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._endpoints = inference.endpoints
        self._model_metrics = (
            Gauges.define(
                "ensembled_model_ready",
                "Whether the model takes traffic: it can meet its quorum.",
                inference.can_answer,
            ),
            Gauges.define(
                "ensembled_model_quorum",
                "The fewest members that an answer may rest on.",
                lambda endpoint: endpoint.model.served.spec.quorum,
            ),
            Gauges.define(
                "ensembled_model_members",
                "Members of the model.",
                lambda endpoint: len(endpoint.model.members),
            ),
            Gauges.define(
                "ensembled_model_members_up",
                "Members of the model that some worker serves now.",
                self._members_up,
            ),
        )

    async def collect(self) -> AsyncIterator[Family[Any]]:
        """Requests, then models."""
        counters = {name: endpoint.counters for name, endpoint in self._endpoints.items()}
        with_none = {**counters, _NO_MODEL: self._inference.unaddressed}
        for family in self._outcomes(with_none):
            yield family
        yield self._in_flight()
        for family in families(_ROW_METRICS, _MODEL, [((n,), c) for n, c in counters.items()]):
            yield family
        times = {}
        for name, one in counters.items():
            times[name] = one.times
            await asyncio.sleep(0)  # there may be much to sort
        for family in self._durations(times, with_none):
            yield family
        endpoints = [((name,), endpoint) for name, endpoint in self._endpoints.items()]
        for family in families(self._model_metrics, _MODEL, endpoints):
            yield family

    def _outcomes(self, counters: dict[str, ModelCounters]) -> Iterator[Family[Any]]:
        yield Counters(
            "ensembled_requests_total",
            "Requests that have ended, by outcome.",
            ("model", "outcome"),
            (
                ((name, outcome), number)
                for name, one in counters.items()
                for outcome, number in _with_zeros(OUTCOMES, one.outcomes).items()
            ),
        )
        yield Counters(
            "ensembled_refusals_total",
            "Requests refused because of the server's state or limits, by reason.",
            ("model", "reason"),
            (
                ((name, reason), number)
                for name, one in counters.items()
                for reason, number in _with_zeros(REASONS, one.refusals).items()
            ),
        )

    def _in_flight(self) -> Family[Any]:
        in_flight = Counter(
            (request.model.name, request.flow.level.number)
            for request in self._inference.engine.requests
        )
        return Gauges(
            "ensembled_requests_in_flight",
            "Requests that were accepted and are not answered yet.",
            ("model", "priority"),
            (
                ((name, priority), in_flight[name, number])
                for name in self._endpoints
                for priority, number in _PRIORITIES.items()
            ),
        )

    def _durations(
        self, times: dict[str, RequestTimes], counters: dict[str, ModelCounters]
    ) -> Iterator[Family[Any]]:
        yield Histograms(
            "ensembled_request_duration_seconds",
            "Duration of answered requests, from having the body to having the response.",
            _MODEL,
            (((name,), one.whole) for name, one in times.items()),
        )
        yield Histograms(
            "ensembled_request_stage_duration_seconds",
            "Duration of the stages of answered requests.",
            ("model", "stage"),
            (
                ((name, stage), getattr(one, stage))
                for name, one in times.items()
                for stage in RequestTimes._fields[1:]
            ),
        )
        yield Histograms(
            "ensembled_failed_request_duration_seconds",
            "Duration of failed requests, from having the head to having the error.",
            _MODEL,
            (((name,), one.failure) for name, one in counters.items()),
        )

    def _members_up(self, endpoint: Endpoint) -> int:
        served = endpoint.model.served
        members = self._inference.engine.fleet.members[served.arena]
        return sum(members[index].is_up for index in served.spec.members)


def _with_zeros(known: tuple[str, ...], counted: dict[str, int]) -> dict[str, int]:
    """Counters begin at 0, so that a rate includes the first request."""
    return {**dict.fromkeys(known, 0), **counted}
