"""The registry of all collectors, which answers scrapes.

Runs in the front-end's event loop, in slices of half a millisecond, so that requests are not held
up. Everything else keeps plain counters; collectors read them during a scrape, and text in an
exposition format flows out. A collector that fails is left out, from the failing family on, and
counted; nothing else suffers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from functools import partial
from typing import Any

from prometheus_client.openmetrics import exposition as openmetrics

from server.engine.memory_budget import MemoryBudget
from server.inference.inference import Inference
from server.metrics.devices import DeviceMetrics
from server.metrics.exposition import OPENMETRICS_END, Counters, Family, encode
from server.metrics.fleet import busy_seconds, collect_arenas, collect_fleet
from server.metrics.models import collect_models
from server.metrics.rollouts import collect_rollouts
from server.metrics.server import LoopLag, ProcessMetrics, collect_server
from workers.runtime.memory import SharedMemory
from workers.runtime.spec import DeviceSpec

__all__ = ["MetricsRegistry", "make_registry"]

_log = logging.getLogger(__name__)
_OPENMETRICS = "application/openmetrics-text"
_PLAIN = "text/plain; version=0.0.4; charset=utf-8"
_SLICE_S = 0.0005

#: Yields families, each with the samples of one moment.
Collect = Callable[[], AsyncIterator[Family[Any]]]


class MetricsRegistry:
    """Answers scrapes, in slices of `slice_s`; the order of `collectors` is that of the output."""

    def __init__(self, collectors: Mapping[str, Collect], slice_s: float = _SLICE_S) -> None:
        self._collectors = collectors
        self._slice_s = slice_s
        self._errors: defaultdict[str, int] = defaultdict(int)

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """Return the text of all metrics, and its content type, as an ``Accept`` header wants."""
        is_openmetrics = _OPENMETRICS in accept
        parts: list[bytes] = []
        slice_ends = time.perf_counter() + self._slice_s
        for name, collect in self._collectors.items():
            try:
                async for family in collect():
                    for part in encode(family, is_openmetrics=is_openmetrics):
                        parts.append(part)
                        if time.perf_counter() >= slice_ends:
                            await asyncio.sleep(0)
                            slice_ends = time.perf_counter() + self._slice_s
            except Exception:
                # Logged as an error only once: there is a scrape every few seconds.
                level = logging.DEBUG if self._errors[name] else logging.ERROR
                _log.log(level, "the metrics of %s could not be collected", name, exc_info=True)
                self._errors[name] += 1
        errors = Counters(
            "ensembled_metrics_errors_total",
            "Collectors that failed during a scrape and were left out.",
            ("collector",),
            (((name,), self._errors[name]) for name in self._collectors),
        )
        parts += encode(errors, is_openmetrics=is_openmetrics)
        if not is_openmetrics:
            return b"".join(parts), _PLAIN
        return b"".join([*parts, OPENMETRICS_END]), openmetrics.CONTENT_TYPE_LATEST


def make_registry(
    inference: Inference,
    *,
    memory: SharedMemory,
    devices: Collection[DeviceSpec],
    bodies: MemoryBudget,
    connections: Callable[[], Mapping[str, int]],
) -> MetricsRegistry:
    """Make the registry of a front-end, in the running event loop, whose lag it measures.

    Devices may come to `devices` and `memory`, and go.
    """
    lag = LoopLag()
    lag.start()
    engine = inference.engine
    return MetricsRegistry(
        {
            "models": partial(collect_models, inference),
            "rollouts": partial(collect_rollouts, inference),
            "fleet": partial(collect_fleet, engine.fleet),
            "arenas": partial(collect_arenas, inference.current_arenas, bodies),
            "server": partial(collect_server, inference, lag, connections),
            "processes": ProcessMetrics(memory).collect,
            "devices": DeviceMetrics(devices, busy_s=partial(busy_seconds, engine.fleet)).collect,
        }
    )
