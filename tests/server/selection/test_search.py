"""`select`, end to end: pure, with members that are right by chance."""

import numpy as np
import pytest

from allocator.problem import Device, Problem
from allocator.profiles import Profile, Profiles
from server.errors import ConfigError
from server.selection.picking import pick
from server.selection.search import SelectOptions, select


def library(members, rows, *, seed=0, classes=3, devices=2):
    """Members that are right the more often the slower they are."""
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, rows)
    skill = np.linspace(0.3, 2.0, members)
    noise = random.normal(size=(members, rows, classes))
    logits = noise + skill[:, None, None] * (np.arange(classes) == y[:, None])
    predictions = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    names = tuple(f"m{i}" for i in range(members))
    profiles = Profiles(
        Profile(name, "cpu-1", batch, (0.5 + batch) * 1e-3 * (1 + i), (1 + i) << 20)
        for i, name in enumerate(names)
        for batch in (1, 8)
    )
    pool = tuple(Device(f"cpu:{i}", "cpu-1", 1 << 26, (i,)) for i in range(devices))
    return predictions, y, Problem(names, pool, profiles)


def test_a_selection_has_a_front_a_knee_and_baselines():
    predictions, y, problem = library(6, 300)
    found = select(predictions, y, problem, SelectOptions(cascades=False, weights=False))
    rates = [point.cost.rows_per_s for point in found.front]
    qualities = [point.quality for point in found.front]
    assert rates == sorted(rates, reverse=True)
    assert qualities == sorted(qualities)
    assert set(found.baselines) == {"best_single", "all", "caruana", "top_k"}
    assert found.baselines["all"].candidate.members == problem.members
    assert pick(found, "knee") == found.knee
    assert pick(found, "1") == found.front[0]
    assert found.selected_on + found.judged_on == 300
    for point in found.front:
        low, high = point.quality_interval
        assert low <= point.quality <= high
    with pytest.raises(ConfigError, match="knee, best or a number"):
        pick(found, "0")
