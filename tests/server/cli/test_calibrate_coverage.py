"""`ensembled calibrate --conformal`: what it writes is served, and covers new rows."""

import json

import numpy as np
import psutil
import pytest
import yaml
from ensembled_client import EnsembleClient
from serving import running, title
from typer.testing import CliRunner

from server.cli.main import app
from server.config import load_config

NAMES = ("a", "b")


def config_of(outputs, section, rule="mean"):
    """Fakes that answer with one of the inputs, the first of their own."""
    members = {}
    for name in NAMES:
        inputs = {one: [outputs] for one in sorted(NAMES, key=lambda one, own=name: one != own)}
        members[name] = {"model": "fake", "fake": {"inputs": inputs, "outputs": outputs}, **section}
    return {
        "members": members,
        "ensembles": {"all": {"members": list(NAMES), "rule": rule}},
        "devices": [{"name": "cpu:0", "cores": [0]}],
        "server": {"grpc_port": 0},
    }


def classes(rows, seed=1):
    random = np.random.default_rng(seed)
    y = random.integers(0, 4, rows)
    logits = {name: 2 * np.eye(4)[y] + random.normal(0, 1.2, (rows, 4)) for name in NAMES}
    return logits, y


def normals(rows, seed=1):
    """Members that know the mean nearly, and how much noise there is only roughly."""
    random = np.random.default_rng(seed)
    mean, scale = random.normal(0, 5, rows), random.uniform(0.1, 3, rows)
    y = mean + 2 * scale * random.standard_t(5, rows)
    answers = {
        name: np.stack([mean + random.normal(0, 0.2, rows), 2 * np.log(scale)], axis=1)
        for name in NAMES
    }
    return answers, y


def quantiles(rows, seed=1):
    answers, y = normals(rows, seed)
    levels = np.array([-1.28, 0, 1.28])
    return {name: one[:, :1] + np.exp(one[:, 1:] / 2) * levels for name, one in answers.items()}, y


def values(rows, seed=1):
    answers, y = normals(rows, seed)
    return {name: np.stack([one[:, 0], -one[:, 0]], axis=1) for name, one in answers.items()}, (
        np.stack([y, -y], axis=1)
    )


LOGS = {"output": "normal", "spread": "log_variance"}
QUANTILES = {"output": "quantiles", "levels": [0.1, 0.5, 0.9]}


class Files:
    def __init__(self, folder):
        self.folder = folder
        self.path = folder / "config.yaml"

    def calibrate(self, config, made, *arguments, rows=400):
        # In this order: the first of a fake's inputs is what it answers.
        self.path.write_text(yaml.safe_dump(config, sort_keys=False))
        answers, y = made(rows)
        arrays = {name: one.astype(np.float32) for name, one in answers.items()}
        np.savez(self.folder / "data.npz", **arrays, y=y)
        command = ["calibrate", self.path, "--data", self.folder / "data.npz", *arguments]
        result = CliRunner().invoke(app, [str(one) for one in command])
        assert not any("ensembled" in title(one) for one in psutil.Process().children())
        return result

    def fitted(self, config, made, *arguments, rows=400):
        """Calibrate, and return the report and the configuration with what was fitted."""
        file = self.folder / "coverage.json"
        result = self.calibrate(config, made, "--json", "--conformal", file, *arguments, rows=rows)
        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        fitted = yaml.safe_load(report["yaml"])
        for section in ("members", "ensembles"):
            for name, keys in fitted.get(section, {}).items():
                config[section][name] |= keys
        assert config["ensembles"]["all"]["conformal"] == "coverage.json"
        self.path.write_text(yaml.safe_dump(config, sort_keys=False))
        assert load_config(self.path)
        return report, config


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def ask(files, made, output, coverage):
    """New rows' truths, and what a server says of them."""
    answers, y = made(2000, seed=2)
    with (
        running(files.path, files.folder) as server,
        EnsembleClient(server.url) as client,
    ):
        x = {name: one.astype(np.float32) for name, one in answers.items()}
        found = client.predict("all", x, outputs=[output], coverage=coverage)
    return y, found.outputs[output]


CASCADE = {"cascade": [["a"], ["b"]], "confidence": [0.99]}


@pytest.mark.process
@pytest.mark.parametrize(("method", "ensemble"), [("aps", {}), ("lac", CASCADE)])
def test_sets_of_classes(files, method, ensemble):
    config = config_of(4, {"output": "logits"})
    config["ensembles"]["all"] |= ensemble
    arguments = ["--method", method, "--coverage", 0.9, "--max-loss", 0.1]
    report, config = files.fitted(config, classes, *arguments, rows=1200)
    assert [one["method"] for one in report["sets"]] == ["lac", "aps", "raps"]
    for one in report["sets"]:
        assert abs(one["coverage"] - 0.9) < 0.015
        assert 1 <= one["size"] < 2.5
    assert config["ensembles"]["all"]["coverage"] == 0.9
    if ensemble:
        assert config["ensembles"]["all"]["confidence"][0] < 0.99, "the sets are for the new one"
    else:
        assert "cascade" not in config["ensembles"]["all"], "it would need another calibration"
    y, sets = ask(files, classes, "prediction_set", 0.9)
    assert sets.dtype == np.bool_
    # 600 calibration rows: the coverage is within 3 points with near certainty.
    assert abs(sets[np.arange(len(y)), y].mean() - 0.9) < 0.03


@pytest.mark.process
@pytest.mark.parametrize(
    ("keys", "made", "methods"),
    [
        ((2, LOGS, "mixture"), normals, ["normalised", "absolute", "as predicted"]),
        ((3, QUANTILES), quantiles, ["cqr"]),
        ((2, {}, "median"), values, ["absolute"]),
    ],
)
def test_intervals(files, keys, made, methods):
    config = config_of(*keys)
    report, config = files.fitted(config, made, "--coverage", 0.9, rows=1000)
    assert [one["method"] for one in report["intervals"]] == methods
    for one in report["intervals"]:
        if one["method"] == "as predicted":
            assert one["coverage"] < 0.75, "members that are too sure"
        else:
            assert abs(one["coverage"] - 0.9) < 0.015
    assert set(report["errors"]) == {"all", *NAMES}
    y, intervals = ask(files, made, "interval", 0.8)
    inside = (intervals[..., 0] <= y) & (y <= intervals[..., 1])
    assert abs(inside.mean() - 0.8) < 0.03


@pytest.mark.process
def test_tables(files):
    config = config_of(2, LOGS, rule="mixture")
    # What there is, or is not yet, does not hinder a new calibration.
    config["ensembles"]["all"]["conformal"] = "coverage.json"
    result = files.calibrate(config, normals, rows=100)
    assert result.exit_code == 0, result.output
    assert "RMSE" in result.stdout
    assert "intervals for a coverage of 0.9: means over 20 random splits" in result.stdout
    assert "normalised" in result.stdout
    assert "conformal" not in result.stdout
    assert not (files.folder / "coverage.json").exists()


@pytest.mark.process
def test_too_few_rows(files):
    config = config_of(2, LOGS, rule="mixture")
    result = files.calibrate(config, normals, "--coverage", 0.98, rows=60)
    assert result.exit_code == 0
    assert (
        "too few for an evaluation: a coverage of 0.98 needs 49 calibration rows" in result.stderr
    )
    file = files.folder / "coverage.json"
    result = files.calibrate(config, normals, "--coverage", 0.99, "--conformal", file, rows=60)
    assert result.exit_code == 2
    assert (
        "--conformal: a coverage of 0.99 needs 99 calibration rows, there were 60" in result.stderr
    )
    assert not file.exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--coverage", 1], "--coverage should be between 0 and 1, not 1"),
        (["--outside", "data.npz"], "--outside is for classes, all gives values"),
        (["--weights", "fitted"], "--weights is for classes, all gives values"),
        (["--conformal", "nowhere/file.json"], "there is no directory nowhere"),
    ],
)
def test_options_that_make_no_sense(files, arguments, complaint):
    result = files.calibrate(config_of(2, {}), values, *arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr


@pytest.mark.parametrize(
    ("y", "complaint"),
    [
        (np.zeros((30, 3)), "y should be [30, 2], not [30, 3]"),
        (np.full((30, 2), "a"), "y should be numbers, not"),
        (np.full((30, 2), np.nan), "y[0] is not a finite number"),
    ],
)
def test_truths_that_are_none(files, y, complaint):
    result = files.calibrate(config_of(2, {}), lambda rows: (values(rows)[0], y), rows=30)
    assert result.exit_code == 2
    assert complaint in result.stderr
