"""Metrics of models and their requests.

Runs in the front-end's event loop. The counters of `Inference` and the state of the engine flow in,
metric families flow out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from allocator.dispatch.flows import HIGH, NORMAL
from server.engine.statistics import OUTCOMES, REASONS, ModelCounters, RequestTimes
from server.inference.endpoint import Endpoint
from server.inference.inference import Inference
from server.metrics.exposition import Counters, Family, Gauges, Histograms, families
from server.versions import ModelName

__all__ = ["collect_models"]

#: No model's name: it has characters that names don't have.
_NO_MODEL = ModelName("(none)", "")
_MODEL = ("model", "version")
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
#: Of pairs of the `Inference` and an `Endpoint`.
_MODEL_METRICS = (
    Gauges.define(
        "ensembled_model_ready",
        "Whether the model takes traffic: it can meet its quorum.",
        lambda item: item[0].can_answer(item[1]),
    ),
    Gauges.define(
        "ensembled_model_quorum",
        "The fewest members that an answer may rest on.",
        lambda item: item[1].model.served.spec.quorum,
    ),
    Gauges.define(
        "ensembled_model_members",
        "Members of the model.",
        lambda item: len(item[1].model.members),
    ),
    Gauges.define(
        "ensembled_model_members_up",
        "Members of the model that some worker serves now.",
        lambda item: _members_up(*item),
    ),
)


async def collect_models(inference: Inference) -> AsyncIterator[Family[Any]]:
    """Yield the metrics of requests, then those of models."""
    counters = {one.model.public: one.counters for one in inference.endpoints.values()}
    with_none = {**counters, _NO_MODEL: inference.unaddressed}
    for family in _outcomes(with_none):
        yield family
    yield _in_flight(inference)
    for family in families(_ROW_METRICS, _MODEL, [*counters.items()]):
        yield family
    times = {}
    for name, one in counters.items():
        times[name] = one.times
        await asyncio.sleep(0)  # there may be much to sort
    for family in _durations(times, with_none):
        yield family
    endpoints = [(one.model.public, (inference, one)) for one in inference.endpoints.values()]
    for family in families(_MODEL_METRICS, _MODEL, endpoints):
        yield family


def _outcomes(counters: Mapping[ModelName, ModelCounters]) -> Iterator[Family[Any]]:
    """Begin all counters at 0, so that a rate includes the first request."""
    yield Counters(
        "ensembled_requests_total",
        "Requests that have ended, by outcome.",
        (*_MODEL, "outcome"),
        (
            ((*name, outcome), number)
            for name, one in counters.items()
            for outcome, number in {**dict.fromkeys(OUTCOMES, 0), **one.outcomes}.items()
        ),
    )
    yield Counters(
        "ensembled_refusals_total",
        "Requests refused because of the server's state or limits, by reason.",
        (*_MODEL, "reason"),
        (
            ((*name, reason), number)
            for name, one in counters.items()
            for reason, number in {**dict.fromkeys(REASONS, 0), **one.refusals}.items()
        ),
    )


def _in_flight(inference: Inference) -> Family[Any]:
    in_flight = Counter(
        (request.model.public, request.flow.level.number) for request in inference.engine.requests
    )
    return Gauges(
        "ensembled_requests_in_flight",
        "Requests that were accepted and are not answered yet.",
        (*_MODEL, "priority"),
        (
            ((*name, priority), in_flight[name, number])
            for name in [one.model.public for one in inference.endpoints.values()]
            for priority, number in _PRIORITIES.items()
        ),
    )


def _durations(
    times: Mapping[ModelName, RequestTimes], counters: Mapping[ModelName, ModelCounters]
) -> Iterator[Family[Any]]:
    yield Histograms(
        "ensembled_request_duration_seconds",
        "Duration of answered requests, from having the body to having the response.",
        _MODEL,
        ((name, one.whole) for name, one in times.items()),
    )
    yield Histograms(
        "ensembled_request_stage_duration_seconds",
        "Duration of the stages of answered requests.",
        (*_MODEL, "stage"),
        (
            ((*name, stage), getattr(one, stage))
            for name, one in times.items()
            for stage in RequestTimes._fields[1:]
        ),
    )
    yield Histograms(
        "ensembled_failed_request_duration_seconds",
        "Duration of failed requests, from having the head to having the error.",
        _MODEL,
        ((name, one.failure) for name, one in counters.items()),
    )


def _members_up(inference: Inference, endpoint: Endpoint) -> int:
    served = endpoint.model.served
    members = inference.engine.fleet.members[served.arena]
    return sum(members[index].is_up for index in served.spec.members)
