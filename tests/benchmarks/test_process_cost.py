import os
import time

import psutil
import pytest

from benchmarks.process_cost import (
    ProcessCost,
    Usage,
    costs_per_request,
    family,
    role,
    total,
    usage_of,
)


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("ensembled", "supervisor"),
        ("ensembled front-end", "front-end"),
        ("ensembled combiner", "combiner"),
        ("ensembled worker cpu:0", "workers"),
        ("/usr/bin/python", "all"),
        ("", "all"),
    ],
)
def test_roles(title, name):
    assert role(title) == name


def test_what_requests_cost_between_two_readings():
    before = {"front-end": Usage(1_000_000, 500_000, 10)}
    after = {"front-end": Usage(3_000_000, 1_500_000, 30), "workers": Usage(1_000_000, 0, 5)}
    costs = costs_per_request(before, after, 10)
    assert costs == (ProcessCost("front-end", 200, 100, 2), ProcessCost("workers", 100, 0, 0.5))
    assert total(costs) == ProcessCost("all", 300, 100, 2.5)


def test_this_process_has_used_time_of_a_core():
    processes = family(os.getpid())
    assert processes[0].pid == os.getpid()
    before = usage_of(processes[:1])["all"]
    deadline = time.process_time() + 0.02
    while time.process_time() < deadline:
        pass
    spent = usage_of(processes[:1])["all"] - before
    assert spent.cpu_ns >= 15_000_000
    assert spent.switches >= 0


def test_processes_that_have_ended_are_left_out():
    child = psutil.Popen(["true"])
    process = psutil.Process(child.pid)
    child.wait()
    assert usage_of([process]) == {}
