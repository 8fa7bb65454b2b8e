"""What candidates cost is never less than its bounds."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from allocator.profiles import Profile, Profiles
from allocator.search.exact import Clock
from server.selection.bounds import CostBounds
from server.selection.costs import Coster, cost_values
from server.selection.options import SelectOptions
from server.selection.points import Candidate, StagedExit
from tests.support.libraries import priced


def candidates(names):
    for size in range(1, len(names) + 1):
        for members in itertools.combinations(names, size):
            weights = (1 / size,) * size
            yield Candidate(members, weights)
            if size > 1:
                stages = (members[:1], members[1:])
                yield Candidate(members, weights, StagedExit(stages, (0.9,), (1.0, 0.25)))


@pytest.mark.parametrize("seed", range(2))
def test_no_candidate_is_better_than_its_bounds(seed):
    names = [f"m{i}" for i in range(3)]
    problem = priced(names, 2, seed, joules=0.1)
    slow = Profile("m1", "cpu-2", 4, 0.5, 1 << 18, joules=0.05)
    devices = (*problem.devices[:1], replace(problem.devices[1], kind="cpu-2"))
    on_both = [
        replace(one, device_kind="cpu-2", latency_s=one.latency_s / 2)
        for one in problem.profiles
        if one.member != "m1"
    ]
    problem = replace(
        problem,
        devices=devices,
        profiles=Profiles([*problem.profiles, *on_both, slow]),
        row_s={"cpu:0": 1e-4},
    )
    bounds = CostBounds(problem)
    coster = Coster(problem, SelectOptions(costs=("memory_bytes", "devices")), Clock(60))
    for one in candidates(names):
        demand = np.array([[one.demand.get(name, 0.0) for name in names]])
        quick = float(bounds.rows_per_s(demand)[0])
        tight = bounds.tight_rows_per_s(one)
        least = bounds.values(one, min(quick, tight))
        costs = coster.costs(one)
        fastest = max(cost.rows_per_s for cost in costs)
        assert coster.cost(one).rows_per_s == fastest
        assert fastest <= min(quick, tight) * (1 + 1e-6)
        assert quick <= fastest * 1.6  # it is worth something
        for cost in costs:
            values = cost_values(cost)
            assert all(
                values[name] >= value * (1 - 1e-9)
                for name, value in least.items()
                if name != "rows_per_s"
            )
        assert min(cost.devices for cost in costs) == 1
        assert min(cost.memory_bytes for cost in costs) <= 2 * least["memory_bytes"]
    loaded = Coster(problem, SelectOptions(rate_rows_s=1.0), Clock(60)).cost(one)
    assert loaded.p99_s >= bounds.values(one, 1.0)["p99_ms"] / 1e3
