import asyncio
from functools import partial
from types import SimpleNamespace

import pytest

from allocator.dispatch.flows import NORMAL, Flows
from allocator.dispatch.pending import PendingRows
from allocator.dispatch.state import DeviceState, LatencyEstimate, Member, OpenJob, Placement
from server.engine.admission_queue import AdmissionQueue
from server.engine.memory_budget import MemoryBudget
from server.engine.slots import SlotAllocator
from server.engine.statistics import InstanceCounters, MemberCounters
from server.metrics import fleet
from server.metrics.fleet import collect_arenas, collect_fleet
from server.metrics.registry import MetricsRegistry

FLOW = Flows().get("", NORMAL)
NOW = 50.0


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(fleet, "time", SimpleNamespace(monotonic=lambda: NOW))


def scrape(collect, *args):
    body, _ = asyncio.run(MetricsRegistry({"0": partial(collect, *args)}).scrape(""))
    lines = [line.rpartition(" ") for line in body.decode().splitlines() if line[0] != "#"]
    return {name.removeprefix("ensembled_"): float(value) for name, _, value in lines}


def test_arena_metrics():
    queue, slots = AdmissionQueue(9, 99), SlotAllocator(4, 8)
    slots.claim(5, FLOW, 0.0)
    for rows, claimed in ((7, 3), (2, 0)):
        request = SimpleNamespace(rows=rows, claimed=claimed, flow=FLOW)
        queue.append(request)
    arena = SimpleNamespace(arena=SimpleNamespace(capacity=32), queue=queue, slots=slots)
    bodies = MemoryBudget(1000)
    bodies.reserve(300)
    values = scrape(collect_arenas, lambda: [arena], bodies)
    assert values['arena_slots{arena="0"}'] == 32
    assert values['arena_used_slots{arena="0"}'] == 5
    assert values['arena_waiting_requests{arena="0"}'] == 2
    assert values['arena_waiting_rows{arena="0"}'] == 6
    assert (values["bodies_bytes"], values["bodies_limit_bytes"]) == (300, 1000)


def small_fleet():
    """A member on two devices, one of which is up and runs a job of three rows."""
    member = Member("m", 0, 0, PendingRows(64))
    workers = {}
    for name, up in (("cpu:0", True), ("cpu:1", False)):
        device, estimate = DeviceState(name, up=up), LatencyEstimate(8)
        estimate.warm_up(0.5, 0.5)
        placement = Placement(device, 0, member, estimate)
        member.placements.append(placement)
        workers[name] = SimpleNamespace(
            state=device,
            placements={0: placement},
            counters={0: InstanceCounters()},
            given_up=not up,
        )
    placement = workers["cpu:0"].placements[0]
    job = OpenJob(1, placement, [(0, 3)], 3, 0.5, NOW - 2, NOW - 0.2, [(FLOW, [(0, 3)])])
    placement.device.open(job, NOW - 0.2)
    counters = {0: [MemberCounters()]}
    return SimpleNamespace(workers=workers, members={0: [member]}, member_counters=counters), member


def test_pending_rows_and_worker_metrics():
    known, member = small_fleet()
    assert scrape(collect_fleet, known)['member_oldest_pending_seconds{member="m"}'] == 0
    member.pending.append(8, 12, NOW - 1.5, FLOW)
    member.pending.append(12, 13, NOW - 0.5, FLOW)
    values = scrape(collect_fleet, known)
    assert values['member_pending_rows{member="m"}'] == 5
    assert values['member_oldest_pending_seconds{member="m"}'] == 1.5
    assert values['device_open_jobs{device="cpu:0"}'] == 1
    assert values['device_backlog_seconds{device="cpu:0"}'] == pytest.approx(0.3)
    assert values['worker_up{device="cpu:0"}'] == values['worker_given_up{device="cpu:1"}'] == 1
    assert values['worker_up{device="cpu:1"}'] == values['worker_given_up{device="cpu:0"}'] == 0
    assert member.is_up


def test_batches_are_counted_by_instance_and_by_member():
    known, _ = small_fleet()
    here, there = (worker.counters[0] for worker in known.workers.values())
    here.run(3, 0.25)
    there.run(0, 0.5)
    known.member_counters[0][0].run(2, 1, waited_s=0.01, elapsed_s=0.25)
    values = scrape(collect_fleet, known)
    assert values['member_rows_total{member="m"}'] == 2
    assert values['member_failed_rows_total{member="m"}'] == 1
    assert values['batch_wait_seconds_bucket{le="0.01",member="m"}'] == 1
    assert values['batch_rows_bucket{device="cpu:0",le="2.0",member="m"}'] == 0
    assert values['batch_rows_bucket{device="cpu:0",le="4.0",member="m"}'] == 1
    assert values['instance_busy_seconds_total{device="cpu:1",member="m"}'] == 0.5
    assert 'batch_rows_count{device="cpu:1",member="m"}' not in values
