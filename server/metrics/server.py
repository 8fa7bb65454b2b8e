"""Metrics of the server as a whole: build, readiness, event loop, connections.

Runs in the front-end's event loop.
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import AsyncIterator, Callable, Mapping
from importlib.metadata import version
from typing import Any

from server.engine.histogram import LAGS_S, Histogram
from server.inference.inference import Inference
from server.metrics.exposition import Counters, Family, Gauges, Histograms

__all__ = ["LoopLag", "ServerMetrics"]

_TICK_S = 0.05
_LIMITS = ("connections", "idle", "header", "header_bytes", "body", "write", "unread")


class LoopLag:
    """Measures how late the event loop runs a timer, twenty times a second.

    Attributes:
        lags: in seconds.
    """

    def __init__(self) -> None:
        self.lags = Histogram(LAGS_S)

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._wait()

    def _wait(self) -> None:
        self._due = time.monotonic() + _TICK_S  # uvloop's own clock has milliseconds
        self._loop.call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        self.lags.observe(max(0.0, time.monotonic() - self._due))
        self._wait()


class ServerMetrics:
    """Collects the metrics of the server.

    Args:
        inference: knows whether it is ready.
        lag: of the event loop.
        connections: returns how many HTTP connections are open, and how many each limit has ended.
    """

    def __init__(
        self, inference: Inference, lag: LoopLag, connections: Callable[[], Mapping[str, int]]
    ) -> None:
        self._inference = inference
        self._lag = lag
        self._connections = connections
        self._build = (version("ensembled"), platform.python_version())

    async def collect(self) -> AsyncIterator[Family[Any]]:
        """Build, state, event loop, connections."""
        build = [(self._build, 1.0)]
        yield Gauges(
            "ensembled_build_info",
            "Versions of the server and of Python.",
            ("version", "python"),
            build,
        )
        yield Gauges(
            "ensembled_ready",
            "Whether the server takes traffic.",
            (),
            [((), self._inference.is_ready)],
        )
        yield Gauges(
            "ensembled_draining",
            "Whether the server is stopping, and still answers accepted requests.",
            (),
            [((), self._inference.is_leaving)],
        )
        yield Histograms(
            "ensembled_event_loop_lag_seconds",
            "How late the front-end's event loop ran a timer.",
            (),
            [((), self._lag.lags)],
        )
        connections = {**dict.fromkeys(_LIMITS, 0), **self._connections()}
        yield Gauges(
            "ensembled_connections",
            "Open HTTP connections.",
            (),
            [((), connections.pop("open"))],
        )
        yield Counters(
            "ensembled_connections_ended_total",
            "HTTP connections that were ended or refused by a limit.",
            ("limit",),
            (((limit,), number) for limit, number in connections.items()),
        )
