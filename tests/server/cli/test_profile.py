import json
from types import MappingProxyType

import numpy as np
import pytest
from networks import write_linear
from typer.testing import CliRunner

import server.cli.profile
from allocator.profiles import Profile, Profiles
from server.cli.main import app
from server.errors import StartError
from server.profiling import Measurements
from server.profiling.exploration import CERTAIN

CONFIG = """
members:
  a: {model: fake, fake: {inputs: {x: [4]}, outputs: 2, sleep_ms: 10}}
  b: {model: fake, fake: {inputs: {x: [4]}, outputs: 2}, batch_size: 7}
devices: [{name: "cpu:0"}]
placement: {batch_sizes: [1, 8]}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return str(path)


def invoke(*arguments):
    return CliRunner().invoke(app, ["profile", *arguments])


def test_a_table_for_people(config):
    result = invoke(config)
    assert (result.exit_code, result.stderr) == (0, "")
    rows = [line.split() for line in result.stdout.splitlines() if "│" in line]
    figures = [[cell for cell in row if cell != "│"] for row in rows]
    assert figures[0][0] == "a"
    assert figures[0][2:4] == ["1", "10.020"]
    assert figures[1][1:4] == ["10.020", "*", "798.4"]
    assert figures[2][0] == "b"
    assert figures[2][2] == "7"


def test_json_alone_on_stdout_and_in_a_file(config, tmp_path):
    file = tmp_path / "profiles.json"
    result = invoke(config, "--json", "--output", str(file))
    assert (result.exit_code, result.stderr) == (0, "")
    assert file.read_text() == result.stdout
    document = json.loads(result.stdout)
    assert set(document) == {"profiles", "worker_bytes", "colocation"}
    assert document["colocation"][1]["factor"] == 1.0
    profiles = Profiles.from_json(result.stdout)
    assert profiles.members == ("a", "b")
    assert [(one.member, one.batch) for one in profiles] == [("a", 1), ("a", 8), ("b", 7)]


def test_what_people_should_know_besides(config, monkeypatch):
    found = Measurements(
        profiles=Profiles([Profile("a", "cpu-1", 1, 0.5, 3 << 20)]),
        worker_bytes=MappingProxyType({"cpu-1": 70 << 20}),
        colocation={("a", "cpu-1"): 1.25, ("b", "cpu-1"): 1.0},
        missing=(("a", "cpu-1", "batch 2 and above: out of memory: no [room]"),),
        estimated=(("b", "cpu-1"),),
        from_cache=0,
        measured=1,
    )
    monkeypatch.setattr(server.cli.profile, "profile_members", lambda *_, **__: found)
    lines = invoke(config).stdout.splitlines()
    assert lines[-5:] == [
        "* most rows per second",
        "a worker without any member takes 70 MiB on cpu-1",
        "a: 1.25 times slower while all devices of cpu-1 are busy",
        "a on cpu-1: batch 2 and above: out of memory: no [room]",
        "b on cpu-1: predicted, not measured",
    ]


def test_fresh_and_progress_are_passed_on(config, monkeypatch):
    def profile_members(*_, fresh, on_progress, **__):
        assert fresh
        on_progress("a on cpu-1: loading", 0, 2)
        on_progress("a on cpu-1: batch 1", 0, 2)
        on_progress("b on cpu-1: loading", 1, 2)
        on_progress("done", 2, 2)
        raise StartError("member 'a' can't run on any device: cpu-1: it crashed")

    monkeypatch.setattr(server.cli.profile, "profile_members", profile_members)
    result = invoke(config, "--fresh")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        "profiling 1 of 2: a on cpu-1",
        "profiling 2 of 2: b on cpu-1",
        "error: member 'a' can't run on any device: cpu-1: it crashed",
    ]


@pytest.mark.parametrize("place", ["absent/profiles.json", "."])
def test_an_output_that_can_not_be_written(config, tmp_path, place):
    result = invoke(config, "--output", str(tmp_path / place))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: --output ")
    assert result.stderr.count("\n") == 1


def test_a_missing_configuration(tmp_path):
    result = invoke(str(tmp_path / "absent.yaml"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1


@pytest.mark.process
def test_a_budget_ends_once_the_allocation_is_certain(tmp_path, monkeypatch):
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path / "cache"))
    weights = np.ones((16, 4), np.float32)
    for name in ("a", "b"):
        write_linear(tmp_path / f"{name}.onnx", weights * len(name))
    path = tmp_path / "config.yaml"
    path.write_text(
        "members: {a: {model: a.onnx}, b: {model: b.onnx}}\n"
        'devices: [{name: "cpu:0"}]\n'
        "placement: {batch_sizes: [1, 2, 4, 8, 16, 32]}\n"
    )
    result = invoke(str(path), "--budget", "60", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["doubt"] <= CERTAIN
    found = list(Profiles.from_json(result.stdout))
    assert len(found) == 12
    measured = [one for one in found if one.interval_s is None]
    assert 1 <= len(measured) < len(found)
    assert "the allocation is certain" in invoke(str(path), "--budget", "0.6").stdout
