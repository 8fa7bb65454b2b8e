"""All metrics of a server together.

Runs in the front-end. Everything else keeps plain counters; the collectors made here read them
when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from server.engine.memory_budget import MemoryBudget
from server.inference.inference import Inference
from server.inference.spec import FrontEndSpec
from server.metrics.devices import DeviceMetrics
from server.metrics.exposition import Exposition
from server.metrics.fleet import ArenaMetrics, FleetMetrics
from server.metrics.gpus import Gpus
from server.metrics.models import ModelMetrics
from server.metrics.processes import ProcessMetrics
from server.metrics.server import LoopLag, ServerMetrics
from workers.runtime.memory import SharedMemory

__all__ = ["make_metrics"]


def make_metrics(
    spec: FrontEndSpec,
    inference: Inference,
    bodies: MemoryBudget,
    connections: Callable[[], Mapping[str, int]],
) -> Exposition:
    """Make the collectors, in the running event loop, whose lag is measured from now on.

    Args:
        spec: what this front-end serves.
        inference: has the counters of models, and the engine.
        bodies: what requests' bodies take.
        connections: tells how many HTTP connections are open, and how many each limit has ended.
    """
    lag = LoopLag()
    lag.start()
    engine = inference.engine
    return Exposition(
        {
            "models": ModelMetrics(inference).collect,
            "fleet": FleetMetrics(engine).collect,
            "arenas": ArenaMetrics(engine, bodies).collect,
            "server": ServerMetrics(inference, lag, connections).collect,
            "processes": ProcessMetrics(SharedMemory(spec.memory)).collect,
            "devices": DeviceMetrics(spec.devices, Gpus(spec.devices)).collect,
        }
    )
