"""Workers that are parts of a CPU device: a search divides it, and changes divide it anew."""

import json
import os

import pytest
from changes import ChangingServer
from serving import configuration, fake, title, wait_for

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores to divide"),
]

CORES = sorted(os.sched_getaffinity(0))[:2]
PARTS = [f"cpu:0/{core}" for core in CORES]


def divisible(members, *, memory="1GiB", devices=1, **placement):
    """So many devices of the same two cores, of which the search divides each."""
    return configuration(members) | {
        "devices": [
            {"name": f"cpu:{index}", "part_of": "cpu", "cores": CORES, "memory_bytes": memory}
            for index in range(devices)
        ],
        "placement": {"threads": "auto", "batch_sizes": [1, 4], **placement},
    }


def by(devices, *matrix):
    return {"members": ["a", "b"], "devices": devices, "matrix": [list(row) for row in matrix]}


def place(server, allocation):
    return server.client.post("/v2/repository/placement", json.dumps(allocation).encode())


def workers(server):
    """The cores of each worker, by its name."""
    found = {title(child): child.cpu_affinity() for child in server.children()}
    start = "ensembled worker "
    return {
        name.removeprefix(start): cores for name, cores in found.items() if name.startswith(start)
    }


def test_parts_are_devices_of_their_own_and_divisions_change(serve):
    """Fakes sleep as long on one core as on two, so single cores are twice as fast."""
    changing = ChangingServer(serve, divisible({"a": fake(1, sleep_ms=3), "b": fake(1)}), 1)
    server = changing.server
    assert workers(server) == {part: [core] for part, core in zip(PARTS, CORES, strict=True)}
    metrics = server.client.get("/metrics").text.splitlines()
    for part in PARTS:
        assert f'ensembled_device_info{{device="{part}",gpu="",kind="cpu-1"}} 1.0' in metrics
        assert f'ensembled_instance_max_batch_rows{{device="{part}",member="a"}} 4.0' in metrics
    assert server.client.get("/v2/models/a/config").json()["allocation"].keys() <= {*PARTS}
    for devices, words in [
        ([PARTS[0], "cpu:0"], "share a core, leave one of them out"),
        (["cpu:0/511"], "cpu:0 has no core 511, its cores are"),
        ([f"cpu:0/{CORES[0]},{CORES[0]}"], f"its name would be '{PARTS[0]}'"),
        (["cpu:1/0"], "device 'cpu:1/0' is not there"),
    ]:
        refused = place(server, by(devices, *[[4, 4]] * len(devices)))
        assert refused.status == 400
        assert words in refused.error
    with changing.under_load():
        for number, (devices, cells) in enumerate(
            [(["cpu:0"], [[4, 4]]), (PARTS, [[4, 0], [0, 4]]), (PARTS[:1], [[4, 4]])], start=2
        ):
            changing.adds[number] = 1
            changed = place(server, by(devices, *cells))
            assert (changed.status, changed.json.get("generation")) == (200, number), changed.json
            wait_for(lambda now={*devices}: workers(server).keys() == now, "the division's workers")
    assert workers(server) == {PARTS[0]: CORES[:1]}


def test_where_memory_or_slots_are_short(serve):
    """A mebibyte per fake: what goes is unloaded first; more workers than slots are refused."""
    document = divisible({"a": fake(1), "b": fake(1)}, memory="2500KiB", devices=3)
    changing = ChangingServer(serve, {**document, "allocation": by(PARTS, [4, 0], [0, 4])}, 1)
    server = changing.server
    assert workers(server).keys() == {*PARTS}
    with changing.under_load():
        changing.adds[2] = 1
        changed = place(server, by(["cpu:0"], [4, 4]))
        assert changed.status == 200, changed.json
        assert any("no room for both" in line for line in changed.json["changes"])
        wait_for(lambda: workers(server).keys() == {"cpu:0"}, "the whole device's worker")
    parts = [f"cpu:{index}/{core}" for index in range(3) for core in CORES]
    refused = place(server, by(parts, *[[4, 0], [0, 4]] * 3))
    assert refused.status == 409
    assert "there is space for 5 more workers" in refused.error
    assert "restart the server" in refused.error
    changing.generation = 2
    changing.check()
    # Without the file the search divides all three, which a running server can't follow.
    changing.write(document)
    assert "there is space for 5 more workers" in changing.fail(changing.signal())
