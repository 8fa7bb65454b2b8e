"""Allocations measured by a real server: how much load, the choice, and serving the result."""

import json
import signal
import subprocess
import sys

import psutil
import pytest
import yaml
from serving import fake, title, wait_for
from typer.testing import CliRunner

import server.measurement.allocation
from allocator.matrix import AllocationMatrix
from server.cli.main import app
from server.config import load_config
from server.measurement.allocation import intensity, served_rows_s
from server.measurement.load import Intensity
from server.measurement.server import MeasurementError, measured_server

#: Batches of 8 take as long as those of 1, on two devices that share the cores.
CONFIG = {
    "members": {"a": fake(1, sleep_ms=10), "b": fake(3, sleep_ms=20)},
    "ensembles": {"both": {"members": ["a", "b"]}},
    "devices": [{"name": f"part.{i}", "part_of": "cpu"} for i in (0, 1)],
    "placement": {"batch_sizes": [1, 8]},
}
DEVICES = ("part.0", "part.1")
IMAGE = {"image": {"size": 8, "mean": 0, "std": 255}}


@pytest.fixture
def write(tmp_path):
    """Write a configuration, CONFIG with changes, and return its path."""

    def write_config(**changes):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({**CONFIG, **changes}))
        return path

    return write_config


def invoke(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def no_servers_are_left():
    return not any("ensembled" in title(one) for one in psutil.Process().children(recursive=True))


def matrix(*cells):
    return AllocationMatrix(("a", "b"), DEVICES[: len(cells)], cells)


def test_the_load_fills_the_batches_twice_but_answers_take_no_longer_than_allowed(write):
    config = load_config(write())
    matrices = [matrix((8, 4), (8, 0)), matrix((64, 1))]
    assert intensity(config, matrices, expected_rows_s=1e6) == Intensity(8, 16)
    assert intensity(config, matrices, expected_rows_s=64) == Intensity(8, 4)
    assert intensity(config, matrices, expected_rows_s=0.1) == Intensity(8, 1)
    late = {"both": {"members": ["a", "b"], "deadline_ms": 250, "quorum": 1}}
    config = load_config(write(ensembles=late))
    assert intensity(config, matrices, expected_rows_s=64) == Intensity(8, 1)
    config = load_config(write(ensembles={}))
    assert intensity(config, matrices, expected_rows_s=1e6) == Intensity(8, 32)


def allocate_by(monkeypatch, path, rows_s):
    """Run the command, with a server that gives each matrix the rows/s of a function."""

    def served(path, config, matrix, load, seconds):
        if found := rows_s(matrix):
            return found
        raise MeasurementError("it does not start: out of memory")

    monkeypatch.setattr(server.measurement.allocation, "served_rows_s", served)
    return invoke("allocate", path, "--measure-s", "1", "--json")


def test_what_the_server_can_not_start_loses_to_what_it_can(monkeypatch, write):
    result = allocate_by(
        monkeypatch, write(), lambda matrix: 0 if max(map(max, matrix.cells)) > 1 else 5
    )
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert (document["solver"], document["matrix"]) == ("measured", [[1, 1], [1, 1]])
    rates = [one["rows_s"] for one in document["measured"]]
    assert rates == [5] + [0] * (len(rates) - 1)
    assert document["measured"][0]["matrix"] == document["matrix"]
    assert document["throughput_rows_s"] < document["bound_rows_s"]
    lines = result.stderr.splitlines()
    assert lines[0].startswith(f"measuring {len(rates)} allocations")
    assert lines[1] == ("measured for 0.5 s: the optimum: fails, it does not start: out of memory")


def test_nothing_can_be_started(monkeypatch, write):
    result = allocate_by(monkeypatch, write(), lambda matrix: 0)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1] == "error: no allocation can be served, see above"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--measure", "--rate", "5"), "--measure is for the highest throughput, drop --rate"),
        (("--measure-s", "0"), "measure-s"),
    ],
)
def test_what_makes_no_sense_with_it(write, arguments, text):
    result = invoke("allocate", write(), *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert text in result.stderr


def test_files_can_not_be_measured(tmp_path):
    result = invoke("allocate", "--devices", "d", "--profiles", "p", "--measure")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: --measure needs CONFIG: what a file describes can't be served\n"


def test_a_latency_objective_is_not_measured(write):
    placement = {"objective": "latency", "arrival_rows_s": 5}
    result = invoke("allocate", write(placement=placement), "--measure")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--measure is for the highest throughput, drop placement.objective" in result.stderr


def test_an_allocation_that_is_not_there(write):
    result = invoke("serve", write(), "--allocation", "absent.json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: --allocation: there is no file absent.json\n"


# -- with real servers -------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.slow
def test_the_command_measures_and_its_result_can_be_served(write, serve, tmp_path):
    output = tmp_path / "result.json"
    result = invoke("allocate", write(), "--measure-s", "0.4", "--output", output)
    assert result.exit_code == 0, result.stderr
    assert no_servers_are_left()
    document = json.loads(output.read_text())
    assert document["solver"] == "measured"
    rates = {one["what"]: one["rows_s"] for one in document["measured"]}
    assert rates["the optimum"] > 0
    # A batch of one takes as long as one of eight.
    assert document["measured"][-1]["what"].startswith("smaller batches on ")
    assert max(map(max, document["matrix"])) == 8
    assert "measured allocations" in result.stdout
    assert "found by measured" in result.stdout
    running = serve(CONFIG, arguments=("--allocation", str(output)))
    served = running.client.get("/v2/models/both/config").json()["allocation"]
    assert served == {
        device: {name: batch for name, batch in zip("ab", row, strict=True) if batch}
        for device, row in zip(DEVICES, document["matrix"], strict=True)
    }


def served(path, matrix):
    return served_rows_s(path, load_config(path), matrix, Intensity(2, 4), 0.2)


@pytest.mark.process
def test_images_and_tensors_are_served_and_measured(write, monkeypatch):
    # The server is not reached through a proxy.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "example.org")
    members = {
        "a": {"model": "fake", "fake": {"inputs": {"x": [3, 8, 8]}, "outputs": 2}, "input": IMAGE},
        "b": fake(1),
    }
    # The measured server demands no key, and does not limit a client.
    server = {
        "api_keys": [{"name": "alice", "hash": "sha256:" + "0" * 64}],
        "limits": {"client_requests": 1},
    }
    path = write(members=members, ensembles={}, server=server)
    assert served(path, matrix((8, 0), (0, 8))) > 0


@pytest.mark.process
def test_an_allocation_that_does_not_start(write):
    with pytest.raises(MeasurementError) as error:
        served(write(), AllocationMatrix(("a", "b"), ("part.9",), ((8, 8),)))
    reason = str(error.value)
    assert reason.startswith("it does not start: ")
    assert reason.endswith("device 'part.9' is not there")
    assert no_servers_are_left()


@pytest.mark.process
def test_an_allocation_that_runs_out_of_memory(write):
    path = write(members={"a": fake(fail="alloc"), "b": fake()})
    with pytest.raises(MeasurementError, match="^it answers 500"):
        served(path, matrix((8, 8)))
    assert no_servers_are_left()


PARENT = """
import sys
from pathlib import Path
from allocator.matrix import AllocationMatrix
from server.measurement.server import measured_server
with measured_server(Path(sys.argv[1]), AllocationMatrix.from_json(sys.argv[2])):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_the_server_ends_with_a_parent_that_was_killed(write):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(write()), matrix((8, 8)).to_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout.readline() == b"ready\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) >= 4
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(map(title, children)), "the end of the server")


@pytest.mark.process
def test_the_server_ends_with_the_block_that_fails(write):
    def fail():
        with measured_server(write(), matrix((8, 8))) as address:
            raise LookupError(address)

    with pytest.raises(LookupError, match=r"127\.0\.0\.1:\d+"):
        fail()
    assert no_servers_are_left()
