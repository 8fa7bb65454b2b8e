"""Libraries of members that are right by chance, with profiles, to select from."""

import numpy as np

from allocator.problem import Device, Problem
from allocator.profiles import Profile, Profiles


def library(members, rows, *, seed=0, classes=3, devices=2, joules=None):
    """Members that are right the more often the slower they are: predictions, y and a problem."""
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, rows)
    skill = np.linspace(0.3, 2.0, members)
    logits = random.normal(size=(members, rows, classes))
    logits += skill[:, None, None] * (np.arange(classes) == y[:, None])
    predictions = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return predictions, y, priced([f"m{i}" for i in range(members)], devices, seed, joules)


def priced(names, devices, seed=0, joules=None):
    """A problem over members that cost the more the later they are named."""
    random = np.random.default_rng(seed)
    seconds = np.linspace(1e-3, 1e-2, len(names)) * random.uniform(0.7, 1.4, len(names))
    profiles = Profiles(
        Profile(
            name,
            "cpu-1",
            batch,
            float((0.5 + batch) * each),
            (1 + i) << 20,
            joules=None if joules is None else joules * batch * (1 + i),
        )
        for i, (name, each) in enumerate(zip(names, seconds, strict=True))
        for batch in (1, 8)
    )
    pool = tuple(Device(f"cpu:{i}", "cpu-1", 1 << 26, (i,)) for i in range(devices))
    return Problem(tuple(names), pool, profiles)
