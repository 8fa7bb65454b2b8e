"""A training function's contract: what it is told, yields and returns."""

import math
from pathlib import Path

import pytest

from server.growth.training import NotTrainable, Pruned, Run, TrialFailed, train


@pytest.fixture
def run(tmp_path):
    directory = tmp_path / "trials" / "0003"
    directory.mkdir(parents=True)
    return Run(number=3, budget=4, directory=directory, device="cpu", cores=1, seed=7)


def run_train(function, run, on_metric=lambda step, value: False, config=None):
    return train(function, config or {}, run, run.directory.parents[1], on_metric)


def writing(result, metrics=(0.5, 0.75), files=("model.onnx",)):
    def function(config, run):
        yield from metrics
        for name in files:
            (run.directory / name).write_bytes(b"12345")
        return result(run) if callable(result) else result

    return function


def test_metrics_are_told_as_they_come_and_the_last_is_the_quality(run):
    told = []

    def on_metric(step, value):
        told.append((step, value))
        return False

    trained = run_train(writing(lambda run: run.directory / "model.onnx"), run, on_metric)
    assert told == [(1, 0.5), (2, 0.75)]
    assert trained.quality == 0.75
    assert trained.member == {"model": "trials/0003/model.onnx"}
    assert trained.nbytes == 5


@pytest.mark.parametrize(
    "result", ["model.onnx", Path("model.onnx"), {"model": "model.onnx"}], ids=repr
)
def test_paths_are_those_of_the_trial(run, result):
    assert run_train(writing(result), run).member == {"model": "trials/0003/model.onnx"}


def test_a_section_keeps_what_is_no_file_of_the_trial(run):
    section = {
        "model": {"python": "net.py:Net", "weights": "net.safetensors", "args": {"width": 3}},
        "output": "logits",
        "labels": "labels.txt",
        "input": {"image": {"size": 224}},
    }
    files = ("net.py", "net.safetensors", "labels.txt")
    assert run_train(writing(section, files=files), run).member == {
        "model": {
            "python": "trials/0003/net.py:Net",
            "weights": "trials/0003/net.safetensors",
            "args": {"width": 3},
        },
        "output": "logits",
        "labels": "trials/0003/labels.txt",
        "input": {"image": {"size": 224}},
    }


def test_a_file_outside_the_library_stays_where_it_is(run, tmp_path_factory):
    shared = tmp_path_factory.mktemp("shared") / "labels.txt"
    shared.touch()
    trained = run_train(writing({"model": "model.onnx", "labels": shared}), run)
    assert trained.member["labels"] == str(shared)


def test_a_trial_that_is_stopped_is_closed(run):
    closed = []

    def function(config, run):
        try:
            while True:
                yield 1.0
        finally:
            closed.append(True)

    with pytest.raises(Pruned):
        run_train(function, run, lambda step, value: step == 2)
    assert closed == [True]


def test_the_configuration_is_the_functions_own(run):
    config = {"a": 1}

    def function(given, run):
        given["a"] = 2
        yield 1.0
        return {"model": "fake"}

    run_train(function, run, config=config)
    assert config == {"a": 1}


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (writing("model.onnx", metrics=()), "no metric", "without yielding"),
        (writing("model.onnx", metrics=[math.nan]), "metric is not finite", "nan"),
        (writing("model.onnx", metrics=["good"]), "metric is no number", "'good'"),
        (writing(None), "no model", "returned None"),
        (writing({"output": "logits"}), "no model", "mapping with `model`"),
        (writing("other.onnx"), "no model", "there is no file"),
        (writing({"model": "fake", "args": object()}), "no model", "no plain data"),
    ],
)
def test_a_trial_without_a_result_fails_with_its_kind(run, function, kind, message):
    with pytest.raises(TrialFailed, match=message) as caught:
        run_train(function, run)
    assert caught.value.kind == kind


def test_what_the_function_raises_is_its_own(run):
    def function(config, run):
        yield 1.0
        raise ZeroDivisionError("of the user")

    with pytest.raises(ZeroDivisionError, match="of the user"):
        run_train(function, run)


def test_a_function_that_is_no_generator_can_train_nothing(run):
    with pytest.raises(NotTrainable, match="is no generator"):
        run_train(lambda config, run: 1.0, run)
