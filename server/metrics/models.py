"""Metrics of the models that clients ask, and of their requests.

Runs in the front-end's event loop. The counters that `Inference` and the engine keep anyway flow
in, metric families flow out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

from allocator.dispatch.flows import HIGH, NORMAL
from server.engine.statistics import OUTCOMES, REASONS, ModelCounters, RequestTimes
from server.inference.inference import Endpoint, Inference
from server.metrics.families import AnyFamily, Counters, Gauges, Histograms

__all__ = ["ModelMetrics"]

#: No model's name: it has characters that names don't have.
_NO_MODEL = "(none)"
_MODEL = ("model",)
_PRIORITIES = {"high": HIGH, "normal": NORMAL}


class ModelMetrics:
    """Collects them.

    Args:
        inference: knows the models.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._endpoints = inference.endpoints

    async def collect(self) -> AsyncIterator[AnyFamily]:
        """Requests first, then models."""
        counted = {name: endpoint.counters for name, endpoint in self._endpoints.items()}
        everybody = {**counted, _NO_MODEL: self._inference.unaddressed}
        for family in (*self._ends(everybody), self._in_flight(), *self._work(counted)):
            yield family
        times = {}
        for name, counters in counted.items():
            times[name] = counters.times
            await asyncio.sleep(0)  # they may have much to sort
        for family in (*self._times(times, everybody), *self._models()):
            yield family

    def _ends(self, everybody: dict[str, ModelCounters]) -> list[AnyFamily]:
        return [
            Counters(
                "ensembled_requests_total",
                "Requests that ended, by what became of them.",
                ("model", "outcome"),
                (
                    ((name, outcome), number)
                    for name, counters in everybody.items()
                    for outcome, number in _with_zeros(OUTCOMES, counters.outcomes).items()
                ),
            ),
            Counters(
                "ensembled_refusals_total",
                "Requests that were turned away because of the server's state or limits.",
                ("model", "reason"),
                (
                    ((name, reason), number)
                    for name, counters in everybody.items()
                    for reason, number in _with_zeros(REASONS, counters.refusals).items()
                ),
            ),
        ]

    def _in_flight(self) -> AnyFamily:
        flying = Counter(
            (request.model.name, request.flow.level.number)
            for request in self._inference.engine.requests
        )
        return Gauges(
            "ensembled_requests_in_flight",
            "Requests that were accepted and are not answered yet.",
            ("model", "priority"),
            (
                ((name, priority), flying[name, number])
                for name in self._endpoints
                for priority, number in _PRIORITIES.items()
            ),
        )

    def _work(self, counted: dict[str, ModelCounters]) -> list[AnyFamily]:
        return [
            Counters(
                "ensembled_rows_total",
                "Rows that were answered.",
                _MODEL,
                (((name,), counters.rows) for name, counters in counted.items()),
            ),
            Counters(
                "ensembled_predictions_saved_total",
                "Predictions of members, a row each, that turned out not to be needed.",
                _MODEL,
                (((name,), counters.saved) for name, counters in counted.items()),
            ),
        ]

    def _times(
        self, times: dict[str, RequestTimes], everybody: dict[str, ModelCounters]
    ) -> list[AnyFamily]:
        return [
            Histograms(
                "ensembled_request_duration_seconds",
                "Requests that were answered, from having the body to having the response.",
                _MODEL,
                (((name,), it.whole) for name, it in times.items()),
            ),
            Histograms(
                "ensembled_request_stage_duration_seconds",
                "Requests that were answered, by stage.",
                ("model", "stage"),
                (
                    ((name, stage), getattr(it, stage))
                    for name, it in times.items()
                    for stage in RequestTimes._fields[1:]
                ),
            ),
            Histograms(
                "ensembled_failed_request_duration_seconds",
                "Requests that got an error, from having the head to having the error.",
                _MODEL,
                (((name,), counters.failure) for name, counters in everybody.items()),
            ),
        ]

    def _models(self) -> list[AnyFamily]:
        def each(name: str, text: str, value: Callable[[Endpoint], float]) -> AnyFamily:
            samples = (((model,), value(at)) for model, at in self._endpoints.items())
            return Gauges(name, text, _MODEL, samples)

        return [
            each(
                "ensembled_model_ready",
                "Whether the model takes traffic: it can meet its quorum.",
                self._inference.can_answer,
            ),
            each(
                "ensembled_model_quorum",
                "The fewest members that an answer may rest on.",
                lambda endpoint: endpoint.model.served.spec.quorum,
            ),
            each(
                "ensembled_model_members",
                "The model's members.",
                lambda endpoint: len(endpoint.model.members),
            ),
            each(
                "ensembled_model_members_up",
                "Those of the model's members that some worker serves now.",
                self._members_up,
            ),
        ]

    def _members_up(self, endpoint: Endpoint) -> int:
        served = endpoint.model.served
        members = self._inference.engine.fleet.members[served.arena]
        return sum(members[index].is_up for index in served.spec.members)


def _with_zeros(known: tuple[str, ...], counted: dict[str, int]) -> dict[str, int]:
    """All that are known from the start: a rate begins with the first request, not the second."""
    return {**dict.fromkeys(known, 0), **counted}
