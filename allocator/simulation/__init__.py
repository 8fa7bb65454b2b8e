"""Simulates serving: an allocation under a load, without processes, models or devices.

Pure, deterministic for a seed; used to score allocations and to answer what a pool of devices
would give that need not be there. An allocation matrix, profiles and arrivals flow in, figures
flow out.
"""

from __future__ import annotations

from allocator.simulation.arrivals import (
    Arrivals,
    ClosedLoop,
    ConstantRate,
    Poisson,
    Trace,
    read_trace,
)
from allocator.simulation.figures import Figures, InstanceFigures, LatencyFigures, figures_of
from allocator.simulation.hosted import HostedSimulation
from allocator.simulation.scenario import (
    EnsembleShare,
    Host,
    LaterStage,
    Loss,
    Scenario,
    mix_demand,
)
from allocator.simulation.simulation import Simulation

__all__ = [
    "Arrivals",
    "ClosedLoop",
    "ConstantRate",
    "EnsembleShare",
    "Figures",
    "Host",
    "InstanceFigures",
    "LaterStage",
    "LatencyFigures",
    "Loss",
    "Poisson",
    "Scenario",
    "Trace",
    "mix_demand",
    "read_trace",
    "simulate",
]


def simulate(scenario: Scenario) -> Figures:
    """Simulate an allocation under a load."""
    host = scenario.host
    simulation = HostedSimulation(scenario) if host.has_processes else Simulation(scenario)
    simulation.run()
    return figures_of(simulation.records, scenario.matrix, scenario.deadline_s)
