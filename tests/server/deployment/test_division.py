"""Divides devices as the configuration allows, or as an allocation says; and places on parts."""

import json

import pytest

from allocator.profiles import Profile, Profiles
from server.cli.simulate import scenario_from_config
from server.config import load_config
from server.deployment import devices as host
from server.deployment.devices import discover, find_devices
from server.deployment.division import (
    divided_devices,
    division_problems,
    part_counts,
    profiled_devices,
)
from server.deployment.placement import place, read_allocation
from server.errors import ConfigError
from server.members.inspect import inspect_members
from server.profiling import Measurements, profile_members
from server.profiling.targets import profile_targets
from server.supervision.launch import check
from workers.runtime.spec import DeviceSpec

CONFIG = """
members:
  a: {model: fake, fake: {inputs: {x: [4]}, outputs: 2, sleep_ms: 10}}
  b: {model: fake, fake: {inputs: {x: [4]}, outputs: 2, sleep_ms: 20}}
devices: [{name: left, part_of: cpu, cores: [0], memory_bytes: 1GiB}]
"""
GPU = DeviceSpec("cuda:0", "GPU", 1 << 30)
FOUR = DeviceSpec("cpu:0", "cpu-4", 1 << 30, (0, 1, 2, 3))
TWO = DeviceSpec("cpu:1", "cpu-2", 1 << 30, (4, 6), pool="ram")


def config(folder, placement="{}", **files):
    text = CONFIG + f"placement: {placement}\n"
    if files:
        (folder / "allocation.json").write_text(json.dumps(files["allocation"]))
        text += "allocation: allocation.json\n"
    path = folder / "config.yaml"
    path.write_text(text)
    return load_config(path)


def described(devices):
    return [(one.name, one.kind, one.cores, one.pool) for one in devices]


def test_every_size_of_part_is_profiled_on_as_many_as_there_are(tmp_path):
    loaded = config(tmp_path, "{threads: auto}")
    assert part_counts(loaded, [GPU, FOUR, TWO]) == {"cpu:0": (1, 2, 4), "cpu:1": (1, 2)}
    assert described(profiled_devices(loaded, [GPU, FOUR, TWO])) == [
        ("cuda:0", "GPU", (), ""),
        ("cpu:0", "cpu-4", (0, 1, 2, 3), ""),
        ("cpu:1", "cpu-2", (4, 6), "ram"),
        *((f"cpu:0/{core}", "cpu-1", (core,), "cpu:0") for core in range(4)),
        ("cpu:0/0-1", "cpu-2", (0, 1), "cpu:0"),
        ("cpu:0/2-3", "cpu-2", (2, 3), "cpu:0"),
        ("cpu:1/4", "cpu-1", (4,), "ram"),
        ("cpu:1/6", "cpu-1", (6,), "ram"),
    ]
    # Devices of one kind are measured side by side: they share no core.
    for target in profile_targets(
        loaded, inspect_members(loaded), profiled_devices(loaded, [FOUR])
    ):
        cores = [core for device in target.neighbours for core in device.cores]
        assert len(cores) == len(set(cores))


def test_only_the_sizes_that_are_wanted_are_profiled(tmp_path):
    loaded = config(tmp_path, "{threads: [1]}")
    kinds = {one.kind for one in profiled_devices(loaded, [FOUR])}
    assert kinds == {"cpu-1"}
    named = profiled_devices(loaded, [FOUR], ["cpu:0/0-2", "cpu:0/3", "cpu:7/0"])
    assert {one.kind for one in named} == {"cpu-1", "cpu-3"}
    assert profiled_devices(config(tmp_path), [GPU, FOUR]) == [GPU, FOUR]


def test_a_device_with_too_few_cores_is_refused(tmp_path):
    loaded = config(tmp_path, "{threads: [4, 8]}")
    with pytest.raises(ConfigError, match=r"cpu:1 has 2 cores, fewer than any of \[4, 8\]; add 2"):
        part_counts(loaded, [FOUR, TWO])


def test_named_parts_take_the_place_of_their_device():
    parts = divided_devices([GPU, FOUR, TWO], ["cpu:0/0-1", "cpu:0/3", "cpu:1", "cuda:0"])
    assert [one.name for one in parts] == ["cuda:0", "cpu:0/0-1", "cpu:0/3", "cpu:1"]
    assert [one.cores for one in parts] == [(), (0, 1), (3,), (4, 6)]
    assert not list(division_problems([GPU, FOUR, TWO], ["cpu:0/0-1", "cpu:0/3", "cuda:0"]))


@pytest.mark.parametrize(
    ("named", "words"),
    [
        (["cpu:2"], "device 'cpu:2' is not there"),
        (["cpu:2/0"], "device 'cpu:2/0' is not there"),
        (["cpu:0/x"], "device 'cpu:0/x' is not there"),
        (["cuda:0/0"], "cuda:0 is a GPU"),
        (["cpu:1/4-6"], "cpu:1 has no core 5, its cores are 4, 6"),
        (["cpu:0/0-3"], "its name would be 'cpu:0'"),
        (["cpu:0/1-0"], "its name would be"),
        (["cpu:0/0,1"], "its name would be 'cpu:0/0-1'"),
        (["cpu:0", "cpu:0/0"], "'cpu:0' and 'cpu:0/0' share a core"),
        (["cpu:0/0-1", "cpu:0/1-2"], "'cpu:0/0-1' and 'cpu:0/1-2' share a core"),
    ],
)
def test_names_of_no_division_are_explained(named, words):
    (problem,) = division_problems([GPU, FOUR, TWO], named)
    assert words in problem
    assert len(divided_devices([GPU, FOUR, TWO], named)) >= 3


def measured(**kinds):
    """What a and b cost on kinds of devices, as (seconds, bytes)."""
    return Measurements(
        Profiles(
            Profile(member, kind.replace("_", "-"), 1, seconds, size)
            for member in "ab"
            for kind, (seconds, size) in kinds.items()
        ),
        worker_bytes={kind.replace("_", "-"): 1 << 20 for kind in kinds},
        colocation={("a", "cpu-1"): 1.5},
    )


def test_members_are_placed_on_the_best_division(tmp_path):
    """On one core of four they would be as fast in all, if their neighbours did not slow them."""
    loaded = config(tmp_path, "{threads: auto, spare_memory: leave}")
    members = inspect_members(loaded)
    found = measured(cpu_1=(0.4, 1 << 20), cpu_2=(0.19, 1 << 20), cpu_4=(0.11, 1 << 20))
    placed = place(loaded, members, [FOUR], profile_s=0.0, found=found)
    assert [one.name for one in placed.devices] == ["cpu:0/0-1", "cpu:0/2-3"]
    assert placed.planned.problem.devices[0].kind == "cpu-2"
    assert placed.found is found
    baselines = placed.allocation.baselines
    assert baselines["smallest_parts"] < placed.allocation.throughput_rows_s
    assert baselines["whole_devices"] < placed.allocation.throughput_rows_s
    assert not any("cpu-1" in line for line in placed.planned.corrections)


def test_members_are_placed_for_latency(tmp_path):
    loaded = config(tmp_path, "{threads: auto, objective: latency, arrival_rows_s: 0.5}")
    members = inspect_members(loaded)
    found = measured(cpu_1=(0.4, 1 << 20), cpu_2=(0.21, 1 << 20), cpu_4=(0.08, 1 << 20))
    placed = place(loaded, members, [FOUR], profile_s=0.0, found=found, time_limit_s=2)
    assert [one.name for one in placed.devices] == ["cpu:0"]
    assert placed.figures is not None


def test_few_cores_are_one_device_if_it_is_divided(monkeypatch):
    monkeypatch.setattr(host, "find_gpus", list)
    monkeypatch.setattr(host, "available_cores", lambda: [0, 1, 2])
    monkeypatch.setattr(host, "allowed_cores", lambda: [0, 1, 2])
    assert [one.cores for one in discover(reserve_bytes=0)] == [(0,), (1,), (2,)]
    (whole,) = discover(reserve_bytes=0, is_divided=True)
    assert (whole.name, whole.kind, whole.cores) == ("cpu:0", "cpu-3", (0, 1, 2))


def test_an_allocation_file_on_parts_is_read_back(tmp_path, monkeypatch):
    """Also without `threads`: the file says how the device is divided."""
    monkeypatch.setattr(host, "allowed_cores", lambda: [0, 1])
    monkeypatch.setitem(globals(), "CONFIG", CONFIG.replace("cores: [0]", "cores: [0, 1]"))
    matrix = {"members": ["a", "b"], "devices": ["left/0", "left/1"], "matrix": [[8, 0], [0, 8]]}
    loaded = config(tmp_path, allocation=matrix)
    members, devices = inspect_members(loaded), find_devices(loaded)
    found = profile_members(loaded, members, profiled_devices(loaded, devices), budget_s=0.0)
    assert read_allocation(loaded, devices, found).devices == ("left/0", "left/1")
    assert "left/1: b x8" in check(loaded)
    scenario = scenario_from_config(loaded, None, seed=0)
    assert [(one.name, one.cores) for one in scenario.devices] == [
        ("left/0", (0,)),
        ("left/1", (1,)),
    ]
    wrong = config(tmp_path, allocation={**matrix, "devices": ["left/0", "left/7"]})
    for use in (check, lambda loaded: scenario_from_config(loaded, None, seed=0)):
        with pytest.raises(ConfigError, match="'left/7': left has no core 7, its cores are 0, 1"):
            use(wrong)
