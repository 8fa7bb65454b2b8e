import json

import pytest

from server.cli.simulate import scenario_from_config
from server.config import load_config
from server.deployment.devices import find_devices
from server.deployment.placement import place, read_allocation
from server.errors import ConfigError
from server.members.inspect import inspect_members
from server.profiling import profile_members
from server.supervision.launch import check

CONFIG = """
ensembles: {both: {members: [a, b], rule: mean}}
members:
  a: {model: fake, fake: {inputs: {x: [4]}, outputs: 2, sleep_ms: 10}}
  b: {model: fake, fake: {inputs: {x: [4]}, outputs: 2, sleep_ms: 20}}
devices:
  - {name: "cpu:0", part_of: cpu, cores: [0], memory_bytes: MEMORY}
  - {name: "cpu:1", part_of: cpu, cores: [0], memory_bytes: MEMORY}
placement: {batch_sizes: [1, 8], spare_memory: SPARE}
"""


def config(folder, memory="1GiB", spare="fill", allocation=None):
    text = CONFIG.replace("MEMORY", memory).replace("SPARE", spare)
    if allocation is not None:
        (folder / "allocation.json").write_text(json.dumps(allocation))
        text += "allocation: allocation.json\n"
    path = folder / "config.yaml"
    path.write_text(text)
    return load_config(path)


def placed(loaded):
    return place(loaded, inspect_members(loaded), find_devices(loaded), profile_s=0.0)


def matrix(*cells, devices=("cpu:0", "cpu:1")):
    return {"members": ["a", "b"], "devices": list(devices), "matrix": [list(row) for row in cells]}


def read(loaded):
    members, devices = inspect_members(loaded), find_devices(loaded)
    found = profile_members(loaded, members, devices, budget_s=0.0)
    return read_allocation(loaded, devices, found)


def test_spare_memory_is_filled_or_left(tmp_path):
    filled, left = placed(config(tmp_path)), placed(config(tmp_path, spare="leave"))
    assert filled.allocation.matrix.cells == ((8, 8), (8, 8))
    assert sum(1 for _ in left.allocation.matrix.instances()) == 3
    assert filled.allocation.throughput_rows_s == left.allocation.throughput_rows_s


def test_a_pool_without_room_is_what_the_user_wrote(tmp_path):
    with pytest.raises(ConfigError, match=r"member '[ab]' needs 1.0 MiB .* short of"):
        placed(config(tmp_path, memory="1MB"))


def test_an_allocation_file_that_overfills_a_device_is_refused(tmp_path):
    """Fakes take a mebibyte each."""
    loaded = config(tmp_path, memory="1500KiB", allocation=matrix((8, 8), (0, 8)))
    with pytest.raises(ConfigError, match=r"cpu:0: its instances take 2.0 MiB, there is 1.5 MiB"):
        read(loaded)
    fitting = config(tmp_path, memory="1500KiB", allocation=matrix((8, 0), (0, 8)))
    assert read(fitting).cells == ((8, 0), (0, 8))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (matrix((8, 8), devices=["cpu:7"]), "device 'cpu:7' is not there"),
        (matrix((8, 8)), "1 rows for 2 devices"),
        ({"members": [], "devices": [], "matrix": []}, "there is no member"),
        ({"members": ["a"], "devices": ["cpu:0"], "matrix": [[1]]}, "member 'b' has no column"),
    ],
)
def test_an_allocation_file_that_does_not_fit_is_refused(tmp_path, content, words):
    with pytest.raises(ConfigError, match=words) as caught:
        read(config(tmp_path, allocation=content))
    assert str(tmp_path / "allocation.json") in str(caught.value)


def test_an_allocation_file_that_can_not_be_read(tmp_path):
    loaded = config(tmp_path, allocation=matrix((8, 8), (8, 8)))
    (tmp_path / "allocation.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="Expected `object`, got `array`"):
        read(loaded)
    (tmp_path / "allocation.json").unlink()
    with pytest.raises(ConfigError, match="No such file"):
        scenario_from_config(loaded, None, seed=0)


def test_what_is_known_is_not_called_an_estimate(tmp_path):
    report = check(config(tmp_path))
    assert "predicted throughput" in report
    assert "estimates" not in report
