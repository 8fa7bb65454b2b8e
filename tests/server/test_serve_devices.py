"""Serving on virtual devices: a pool of devices, tried on a machine that has fewer."""

import os

import numpy as np
import pytest
from serving import configuration, fake

pytestmark = pytest.mark.process


def test_virtual_devices_that_share_cores(serve):
    """Three workers on two cores (or one), each with a member of its own and one of all."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    config = configuration({name: fake(add, sleep_ms=2) for add, name in enumerate("abc")})
    config["devices"] = [
        {"name": "first", "part_of": "cpu", "cores": cores[:1]},
        {"name": "cpu:again", "part_of": "cpu", "cores": cores[:1], "memory_bytes": "64MiB"},
        {"name": "both.cores", "part_of": "cpu", "cores": cores},
    ]
    names = [device["name"] for device in config["devices"]]
    config["allocation"] = {
        "members": ["a", "b", "c"],
        "devices": names,
        "matrix": [[8, 0, 4], [0, 8, 4], [0, 0, 4]],
    }
    server = serve(config)
    workers = {name: server.child(f"worker {name}") for name in names}
    assert workers["first"].cpu_affinity() == workers["cpu:again"].cpu_affinity() == cores[:1]
    assert workers["both.cores"].cpu_affinity() == cores
    x = np.arange(40, dtype=np.float32).reshape(20, 2)
    answer = server.predict("all", x)
    assert answer.members == ["a", "b", "c"]
    np.testing.assert_allclose(answer.values, x + 1)
    np.testing.assert_allclose(server.predict("c", x).values, x + 2)
