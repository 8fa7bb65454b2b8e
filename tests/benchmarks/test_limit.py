import json
import os
import shutil

import numpy as np
import pytest
import yaml

from benchmarks import limit as limit_module
from benchmarks.errors import BenchmarkError
from benchmarks.limit import BATCHES, Limit, LimitRounds, splits
from benchmarks.members import expected_answer, random_input
from benchmarks.overhead import MEMBERS, PAYLOADS, fake_config, memcpy_s
from benchmarks.server_process import running_server
from benchmarks.serving import CASES, Case, measure_serving
from server.config import load_config
from server.members.sources import model_sources
from workers.builder import find_recipe
from workers.runtime.spec import ModelSource, TensorSpec

CONFIG = """
ensembles:
  duo: {members: [low, high], rule: mean}
members:
  low: {model: fake, fake: {inputs: {x: [4]}, outputs: 2}}
  high: {model: fake, fake: {inputs: {x: [4]}, outputs: 2, add: 10}}
  broken: {model: fake, fake: {inputs: {x: [4]}, outputs: 2, fail: exit}}
"""


@pytest.fixture
def config_path(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


@pytest.mark.process
def test_the_limit_of_fakes(config_path):
    core = min(os.sched_getaffinity(0))
    sources = model_sources(load_config(config_path))
    with Limit(sources, [core, core]) as limit:
        assert limit.cores == 2
        batches = limit.best_batches(0.001)
        assert batches.keys() == {"low", "high", "broken"}
        assert set(batches.values()) <= set(BATCHES)
        rounds = LimitRounds(limit, 0.01, with_split=True)
        measured = [rounds.measure() for _ in range(2)]
        figures = rounds.figures()
    assert figures.rows_per_s.low == min(one.rows_per_s for one in measured) > 0
    assert all(one.slowest_ms <= one.in_turn_ms for one in measured)
    assert figures.split_ms.low > 0
    assert {name for part in figures.split for name in part} == {"low", "high", "broken"}


def test_the_ways_to_spread_members_over_cores():
    assert splits(1, 2) == [((0,), ())]
    assert sorted(splits(2, 2)) == [((0,), (1,)), ((0, 1), ())]
    assert sorted(splits(3, 2)) == [
        ((0,), (1, 2)),
        ((0, 1), (2,)),
        ((0, 1, 2), ()),
        ((0, 2), (1,)),
    ]
    assert splits(3, 1) == [((0, 1, 2),)]
    assert len(splits(5, 2)) == 2**4


@pytest.mark.process
def test_a_member_that_can_not_be_loaded(tmp_path):
    source = ModelSource("gone", "onnx", str(tmp_path / "gone.onnx"))
    with pytest.raises(BenchmarkError, match="member gone .* does not exist"):
        Limit([source])


@pytest.mark.process
def test_the_command(config_path, monkeypatch, capsys):
    arguments = ["limit", str(config_path), "--json", "--rounds", "1", "--seconds", "0.01"]
    monkeypatch.setattr("sys.argv", arguments)
    limit_module.main()
    figures = json.loads(capsys.readouterr().out)
    assert figures["cores"] == len(os.sched_getaffinity(0))
    monkeypatch.setattr("sys.argv", ["limit", f"{config_path}.gone"])
    with pytest.raises(SystemExit, match="error: .*cannot read the file"):
        limit_module.main()


def test_the_answer_without_a_server(config_path):
    rows = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
    answer = expected_answer(load_config(config_path), "duo", rows)
    assert answer.tolist() == [[6, 7], [10, 11]]


def test_random_inputs_are_reproducible_and_typed():
    pixels = TensorSpec("x", "FP32", (3, 2))
    first, second = (random_input(pixels, 5, seed=1) for _ in range(2))
    assert first.shape == (5, 3, 2)
    assert first.dtype == np.float32
    assert (first == second).all()
    assert np.abs(first.astype(np.float32)).max() <= 1
    assert random_input(TensorSpec("ids", "INT64", (3,)), 1, seed=1).dtype == np.int64


@pytest.mark.parametrize("shape", PAYLOADS)
@pytest.mark.parametrize("members", MEMBERS)
def test_configurations_of_fakes_are_valid(tmp_path, members, shape):
    path = tmp_path / "fakes.yaml"
    path.write_text(fake_config(members, shape))
    assert len(load_config(path).members) == members


def test_the_cases_are_valid():
    for case in CASES.values():
        config = load_config(case.config)
        assert case.ensemble in config.ensembles
        for member in yaml.safe_load(case.config.read_text())["members"].values():
            assert find_recipe(member["model"]["recipe"], case.config.parent).file.is_file()


def test_memcpy_takes_time():
    assert memcpy_s(np.zeros(1 << 20, np.float32)) > 0


@pytest.mark.process
def test_a_server_for_a_block(config_path):
    with running_server(config_path) as server:
        names = [process.name for process in server.memory()]
        usage = server.usage()
    assert usage.keys() == {"supervisor", "front-end", "workers", "combiner"}
    assert all(used.cpu_ns > 0 and used.switches > 0 for used in usage.values())
    assert {"ensembled", "ensembled combiner", "ensembled front-end"} < set(names)


@pytest.mark.process
def test_a_server_that_does_not_start(config_path):
    config_path.write_text("members: {}\nensembels: {}\n")
    ended = pytest.raises(BenchmarkError, match="ended with status 2; .* log ends: error")
    with ended, running_server(config_path):
        pass


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("wrk") is None, reason="needs the load generator wrk")
def test_a_served_ensemble_is_measured(config_path):
    config_path.write_text(CONFIG.split("  broken", maxsplit=1)[0])
    figures = measure_serving(Case(config_path, "duo", (2,)), rounds=1, seconds=1)
    (load,) = figures.loads
    assert load.connections == 2
    assert load.rows_per_s.median > 0
    assert load.p50_ms.median <= load.p99_ms.median
    assert figures.row_bytes == 16
    assert all(one.rss_mib >= one.pss_mib >= one.uss_mib > 0 for one in figures.idle_memory)
