"""Simulates serving: an allocation under a load, without processes, models or devices.

Pure, deterministic for a seed; used to score allocations and to answer what a pool of devices
would give that need not be there. An allocation matrix, profiles and arrivals flow in, figures
flow out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from allocator.devices import Device
from allocator.matrix import AllocationMatrix
from allocator.profiles import Profiles
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
from allocator.simulation.scenario import EnsembleShare, Host, Loss, Scenario
from allocator.simulation.simulation import Simulation

__all__ = [
    "Arrivals",
    "ClosedLoop",
    "ConstantRate",
    "EnsembleShare",
    "Figures",
    "Host",
    "InstanceFigures",
    "LatencyFigures",
    "Loss",
    "Poisson",
    "Trace",
    "read_trace",
    "simulate",
]


def simulate(
    matrix: AllocationMatrix,
    devices: Sequence[Device],
    profiles: Profiles,
    arrivals: Arrivals,
    *,
    host: Host = Host(),  # noqa: B008 (frozen)
    mix: Sequence[EnsembleShare] = (),
    seconds: float | None = None,
    requests: int | None = None,
    warm_up: float = 0.1,
    seed: int = 0,
    noise: float = 0.0,
    colocation: Mapping[tuple[str, str], float] | None = None,
    arena_rows: int | None = None,
    max_waiting: int | None = None,
    losses: Sequence[Loss] = (),
    deadline_s: float | None = None,
) -> Figures:
    """Simulate an allocation under a load.

    The run ends after `seconds`, or when `requests` have been answered or refused, whichever is
    first; without either, after 10,000 requests (20 for each connection of a closed loop, if that
    is more), or at the end of a trace.

    Args:
        matrix: which member runs where, with what batch size.
        devices: at least those of the matrix; their kind is what profiles are looked up by.
        profiles: what batches take.
        arrivals: when requests come.
        host: what serving costs apart from predictions; by default nothing.
        mix: the ensembles that requests are for; by default all are for all members.
        seconds: how long to simulate.
        requests: how many to simulate.
        warm_up: the share of that which is left out of the figures.
        seed: of arrivals, mix and noise.
        noise: sigma of the lognormal factor, of mean 1, on every batch's latency.
        colocation: by (member, device kind), a factor on the latency; by default 1.
        arena_rows: how many rows are in flight at most; None for no limit.
        max_waiting: how many requests may wait for slots of the arena; others are refused.
        losses: the devices that fail.
        deadline_s: seconds after which an answer is late; rows are predicted all the same.

    Raises:
        ValueError: if something does not fit together, or has no profile.
    """
    scenario = Scenario(
        matrix=matrix,
        devices=tuple(devices),
        profiles=profiles,
        arrivals=arrivals,
        host=host,
        mix=mix,
        seconds=seconds,
        requests=requests,
        warm_up=warm_up,
        seed=seed,
        noise=noise,
        colocation=colocation or {},
        arena_rows=arena_rows,
        max_waiting=max_waiting,
        losses=losses,
        deadline_s=deadline_s,
    )
    simulation = HostedSimulation(scenario) if host.has_processes else Simulation(scenario)
    simulation.run()
    return figures_of(simulation.records, matrix, deadline_s)
