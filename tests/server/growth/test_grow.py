"""Libraries grow: processes train, die and are continued, and the good models are members."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from typer.testing import CliRunner

from server.cli.main import app
from server.errors import ConfigError, StartError
from server.growth.grower import GrowOptions, grow
from server.growth.keeping import KeepOptions
from server.growth.trials import StudySpec
from tests.support import growing
from tests.support.serving import wait_for

pytestmark = pytest.mark.process

FILE = Path(growing.__file__).absolute()


@pytest.fixture
def options(tmp_path):
    return GrowOptions(
        function=f"{FILE}:train",
        imports=str(FILE.parent),
        library=tmp_path / "library",
        study=StudySpec(budget=3, pruning="none"),
        keep=KeepOptions(margin=0.02, most=9),
        workers=1,
    )


def changed(options, **values):
    return GrowOptions(**{**vars(options), **values})


def members(library):
    document = yaml.safe_load((library / "library.yaml").read_text())
    assert list(document) == ["members"]
    return document["members"]


def trial_directories(library):
    return sorted(path.name for path in (library / "trials").iterdir())


def test_models_become_members_and_the_library_goes_on_with_data(options, tmp_path):
    growth = grow(changed(options, trials=2))
    assert (growth.ended, growth.complete, growth.failed) == ("trials", 2, 0)
    assert growth.metrics == 6
    assert growth.kept == ((1, 0.01), (0, 0.0))
    assert list(members(options.library)) == ["trial-0001", "trial-0000"]
    assert trial_directories(options.library) == ["0000", "0001"]
    # Nothing is lost by data that do not fit, nor by a storage that does not know the trials.
    data = tmp_path / "data.npz"
    np.savez(data, x=np.zeros((3, 7), np.float32))
    with pytest.raises(ConfigError, match=r"--data .*data.npz: trial-0000: .*\[3, 7\]"):
        grow(changed(options, trials=2, data=data))
    other = StudySpec(f"sqlite:///{tmp_path / 'other.db'}", budget=3)
    with pytest.raises(ConfigError, match="the storage does not have the trials"):
        grow(changed(options, trials=2, study=other))
    assert trial_directories(options.library) == ["0000", "0001"]
    assert grow(changed(options, budget_s=1e-9)).ended == "budget"
    # The fakes give the same classes: with data, the better one is enough.
    np.savez(data, x=np.eye(4, dtype=np.float32)[:3])
    assert grow(changed(options, trials=2, data=data)).kept == ((1, 0.01),)
    assert list(members(options.library)) == ["trial-0001"]
    assert trial_directories(options.library) == ["0001"]


def test_failures_are_told_by_kind_and_a_process_that_dies_is_replaced(options):
    growth = grow(changed(options, function=f"{FILE}:fail", trials=4))
    assert {kind: count for kind, (count, _) in growth.failures.items()} == {
        "ValueError": 1,
        "metric is not finite": 1,
        "model can't be served": 1,
    }
    assert (growth.complete, growth.failed, growth.put_back) == (1, 3, 1)
    example = growth.failures["ValueError"][1]
    assert example.message == "ValueError: the first trial is wrong (growing.py, line 30)"
    text = (options.library / example.file).read_text()
    assert "Traceback" in text
    assert "'add'" in text
    assert "model.onnx" in growth.failures["model can't be served"][1].message
    assert trial_directories(options.library) == ["0004"]


def test_it_ends_early_when_nothing_works(options):
    growth = grow(changed(options, function=f"{FILE}:hopeless", trials=1000))
    assert (growth.ended, growth.failed, growth.kept) == ("failing", 10, ())
    assert not (options.library / "library.yaml").exists()


def test_a_function_that_can_not_be_used_ends_it_at_once(options):
    with pytest.raises(ConfigError, match="has no 'nothing'"):
        grow(changed(options, function=f"{FILE}:nothing", trials=3))


def test_a_process_that_dies_before_it_is_ready_is_told(options, tmp_path):
    (tmp_path / "dying.py").write_text("import os\nos._exit(3)\n")
    dying = changed(options, function=f"{tmp_path}/dying.py:train", trials=1)
    with pytest.raises(StartError, match="a process that trains exited 3"):
        grow(dying)


def test_the_same_command_continues_after_kill_and_after_an_interruption(options, tmp_path):
    gate, library = tmp_path / "gate", options.library
    gate.mkdir()
    arguments = ["grow", f"{FILE}:wait", "--library", str(library), "--trials", "1", "--json"]
    arguments += ["--workers", "1", "--pruning", "none", "--trial-budget", "3"]
    arguments += ["--set", f"gate={gate}"]
    program = [sys.executable, "-c", "from server.cli.entry import main; main()"]
    with subprocess.Popen([*program, *arguments], stderr=subprocess.PIPE) as killed:
        try:
            wait_for((gate / "begun-0").exists, "the first trial")
            processes = psutil.Process(killed.pid).children(recursive=True)
        finally:
            killed.kill()
    assert processes
    assert not psutil.wait_procs(processes, timeout=30)[1]

    def interrupt(growth):
        if (gate / "begun-1").exists():
            os.kill(os.getpid(), signal.SIGINT)

    waiting = changed(options, function=f"{FILE}:wait", fixed={"gate": str(gate)}, trials=1)
    growth = grow(waiting, interrupt)
    assert (growth.ended, growth.settled, growth.put_back) == ("interrupted", 0, 2)
    assert trial_directories(library) == []

    (gate / "open").touch()
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["trials"] == {"complete": 1, "pruned": 0, "failed": 0, "put_back": 2}
    assert document["members"] == [{"name": "trial-0002", "trial": 2, "quality": 0.5}]
    assert list(members(library)) == ["trial-0002"]
    assert (library / "trials/0002/weights.bin").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "give --trials or --budget"),
        (["--trials", "1", "--grace", "28"], "--grace 28 is more than --trial-budget 27"),
        (["--trials", "1", "--set", "a"], "--set a: should be NAME=VALUE"),
        (["--trials", "1", "--disk", "much"], "--disk should be a number of bytes, .* not 'much'"),
        (["--trials", "1", "--data", "none.npz"], "--data .*none.npz: No such file"),
    ],
)
def test_options_that_can_not_be_used_are_told(tmp_path, given, message):
    arguments = ["grow", f"{FILE}:train", "--library", str(tmp_path / "library"), *given]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert re.search(message, result.stderr), result.stderr


@pytest.mark.parametrize("function", ["train", "no/such/file.py:train", "module:two words"])
def test_a_reference_that_names_no_function_is_told(tmp_path, function):
    result = CliRunner().invoke(
        app, ["grow", function, "--library", str(tmp_path), "--trials", "1"]
    )
    assert result.exit_code == 2
    assert not (tmp_path / "trials").exists()
