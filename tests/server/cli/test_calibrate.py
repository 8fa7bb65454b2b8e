"""`ensembled calibrate` from end to end, on fakes whose logits are the data; wrong arguments."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import psutil
import pytest
import yaml
from scipy import special
from serving import fake, title
from sklearn.metrics import log_loss
from typer.testing import CliRunner

from server.calibration.dataset import split_rows
from server.cli.main import app
from server.config import load_config

NAMES = ("sharp", "soft", "poor")
LABELS = ("cat", "dog", "cow")
ROWS = 240


def member(first, **options):
    """A member whose logits are one of the inputs, the first of its own."""
    inputs = {name: [3] for name in (first, *(name for name in NAMES if name != first))}
    network = {"model": "fake", "fake": {"inputs": inputs, "outputs": 3}}
    return {**network, "output": "logits", **options}


def config_of(members=None, **ensemble):
    members = members or {
        "sharp": member("sharp"),
        "soft": member("soft", temperature=2.0),
        "poor": member("poor"),
    }
    return {
        "members": members,
        "ensembles": {"all": {"members": list(members), **ensemble}},
        "devices": [{"name": "cpu:0", "cores": [0]}],
        "server": {"grpc_port": 0},
    }


def rows_of(seed=0, rows=ROWS):
    """Logits of each member, and the classes that they see through noise."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, rows)
    truth = 3 * np.eye(3)[y]
    logits = {
        "sharp": 4 * (truth + random.normal(0, 1.2, (rows, 3))),
        "soft": truth / 2 + random.normal(0, 0.6, (rows, 3)),
        "poor": truth / 4 + random.normal(0, 1.5, (rows, 3)),
    }
    return {name: z.astype(np.float32) for name, z in logits.items()}, y


class Files:
    def __init__(self, folder):
        self.folder = folder

    def config(self, document=None):
        path = self.folder / "config.yaml"
        # In this order: the first of a fake's inputs is what it answers.
        path.write_text(yaml.safe_dump(document or config_of(), sort_keys=False))
        return path

    def data(self, name="data.npz", **arrays):
        logits, y = rows_of()
        np.savez(self.folder / name, **({**logits, "y": y} | arrays))
        return self.folder / name

    def calibrate(self, *arguments, config=None, data=None):
        command = ["calibrate", config or self.config(), "--data", data or self.data()]
        result = CliRunner().invoke(app, [str(one) for one in (*command, *arguments)])
        assert not any("ensembled" in title(one) for one in psutil.Process().children())
        return result


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def merged(document, fragment):
    """A configuration with what was fitted."""
    fitted = yaml.safe_load(fragment)
    for section in ("members", "ensembles"):
        for name, keys in fitted[section].items():
            document[section][name] |= keys
    return document


@pytest.mark.process
def test_what_is_fitted_and_reported_as_json(files):
    out = files.folder / "fitted.yaml"
    elsewhere = files.data("elsewhere.npz", **{name: np.zeros((9, 3)) for name in NAMES})
    result = files.calibrate("--json", "--output", out, "--outside", elsewhere, "--seed", 3)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["rows"] == {"fitting": 120, "held_out": 120}
    assert out.read_text() == document["yaml"]

    members = document["members"]
    # Logits s e[y] + normal noise of deviation d are those of the truth if divided by d^2 / s.
    truth = {"sharp": 4.8**2 / 12, "soft": 0.6**2 / 1.5, "poor": 1.5**2 / 0.75}
    for name, temperature in truth.items():
        assert members[name]["temperature"] == pytest.approx(temperature, rel=0.35)
    assert members["soft"]["old_temperature"] == 2
    for one in members.values():
        assert one["after"]["accuracy"] == one["before"]["accuracy"]
    assert members["sharp"]["after"]["log_loss"] < members["sharp"]["before"]["log_loss"]
    assert members["poor"]["weight"] < 0.2
    assert sum(one["weight"] for one in members.values()) == pytest.approx(1, abs=1e-3)
    assert sum(one["selected"] for one in members.values()) >= 1

    combined = document["combined"]
    assert list(combined) == [
        *("mean", "mean, fitted temperatures", "weighted mean, fitted", "greedy selection"),
        "cascade of mean",
    ]
    assert combined["mean"]["member_rows_per_row"] == 3
    cascade = document["cascade"]
    assert cascade["stages"] == [["sharp"], ["soft"], ["poor"]]
    rows_per_row = combined["cascade of mean"]["member_rows_per_row"]
    assert cascade["saved"] == pytest.approx(1 - rows_per_row / 3)
    assert sum(cascade["leaving"]) == pytest.approx(1)
    assert sum(one["rows"] for one in document["reliability"]["after"]) == 120
    # Rows of zeros: the highest entropy.
    assert document["outside"]["elsewhere"]["before"]["entropy"] == 1

    fitted = load_config(files.config(merged(config_of(), document["yaml"])))
    assert fitted.members["sharp"].temperature == members["sharp"]["temperature"]
    assert list(fitted.ensembles["all"].confidence) == cascade["confidence"]


@pytest.mark.process
def test_figures_are_those_of_the_members_outputs(files):
    """All rows are computed here as the server should, and split as the seed says.

    Each member takes an input of its own.
    """
    members = {}
    for name, options in (("sharp", {}), ("soft", {"temperature": 2.0}), ("poor", {})):
        network = {"model": "fake", "fake": {"inputs": {name: [3]}, "outputs": 3}}
        members[name] = {**network, "output": "logits", **options}
    members["poor"]["augment"] = ["identity", "identity"]
    config = files.config(config_of(members))
    document = json.loads(files.calibrate("--json", "--weights", "fitted", config=config).stdout)
    assert any("poor augment" in note for note in document["notes"])
    logits, y = rows_of()
    _, held = split_rows(y, 0.5, 0)
    old = {"sharp": 1.0, "soft": 2.0, "poor": 1.0}
    new = {name: one["temperature"] for name, one in document["members"].items()}
    for key, temperatures in (("before", old), ("after", new)):
        for name, z in logits.items():
            p = special.softmax(z[held].astype(float) / temperatures[name], axis=1)
            found = document["members"][name][key]
            assert found["log_loss"] == pytest.approx(log_loss(y[held], p), rel=1e-4)
            assert found["accuracy"] == (p.argmax(axis=1) == y[held]).mean()
    p = {name: special.softmax(z[held] / new[name], axis=1) for name, z in logits.items()}
    weights = yaml.safe_load(document["yaml"])["ensembles"]["all"]["weights"]
    mixed = sum(weights[name] * p[name] for name in NAMES) / sum(weights.values())
    found = document["combined"]["weighted mean, fitted"]
    assert found["quality"]["log_loss"] == pytest.approx(log_loss(y[held], mixed), rel=1e-4)
    assert document["rule"] == "weighted_mean"
    assert document["cascade"]["whole_accuracy"] == (mixed.argmax(axis=1) == y[held]).mean()


@pytest.mark.process
def test_classes_are_matched_by_label(files):
    names = {"cats": LABELS, "dogs": LABELS[::-1], "few": LABELS[:2]}
    for name, labels in names.items():
        (files.folder / f"{name}.txt").write_text("\n".join(labels))
    members = {
        "cats": member("sharp", labels="cats.txt"),
        "dogs": member("soft", labels="dogs.txt"),
        "few": {**member("poor", labels="few.txt")},
    }
    members["few"]["fake"] = {**members["few"]["fake"], "outputs": 2}
    logits, y = rows_of()
    data = files.data(
        "labelled.npz", soft=logits["soft"][:, ::-1], y=np.array(LABELS)[y], unused=np.zeros(1)
    )
    plot = files.folder / "r.svg"
    config = files.config(config_of(members))
    result = files.calibrate("--json", "--plot", plot, config=config, data=data)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["members"]["dogs"]["before"]["accuracy"] > 0.8
    assert 0.2 < document["members"]["few"]["before"]["accuracy"] < 0.67
    assert document["combined"]["mean"]["accuracy"] > 0.9
    assert ET.parse(plot).getroot().tag.endswith("svg")


@pytest.mark.process
def test_tables_for_people(files):
    data = files.data("two.npz", y=rows_of()[1] % 2)
    document = config_of(cascade=[["poor", "soft"], ["sharp"]], confidence=[0.5])
    document["ensembles"]["other"] = {"members": ["soft"]}
    config = files.config(document)
    result = files.calibrate("--ensemble", "all", config=config, data=data)
    assert result.exit_code == 0, result.output
    text = result.stdout
    for part in (
        "mean, fitted temperatures",
        "held-out rows",
        "the cascade (as configured)",
        "ECE",
    ):
        assert part in text
    assert "cascade: [[poor, soft], [sharp]]" in text
    assert "note: no row is of class 2: the figures say nothing about it" in result.stderr
    assert "so they change other, too" in result.stderr
    assert "rows are too few to show a loss of 0.20%" in result.stderr


@pytest.mark.process
def test_a_member_that_fails_is_named(files):
    members = config_of()["members"]
    members["poor"]["fake"] |= {"fail": "nan"}
    result = files.calibrate(config=files.config(config_of(members)))
    assert (result.exit_code, result.stdout) == (1, "")
    problem = "member 'poor' failed: not a finite number in its output"
    assert result.stderr == f"error: poor: {problem}\n"


@pytest.mark.process
def test_logits_that_are_called_probabilities(files):
    members = config_of()["members"]
    members["soft"] |= {"output": "probabilities", "temperature": 1.0}
    result = files.calibrate(config=files.config(config_of(members)))
    assert result.exit_code == 2, result.output
    assert "members.soft.output: row 0 has no probabilities (they add up to " in result.stderr


MISTAKES = [
    (("--ensemble", "al"), {}, {}, "--ensemble: there is no ensemble 'al', did you mean 'all'?"),
    (("--holdout", "1"), {}, {}, "--holdout should be between 0 and 1, not 1"),
    (("--plot", "r.pdf"), {}, {}, "--plot r.pdf: should end in .svg or .png"),
    (("--output", "nowhere/x"), {}, {}, "there is no directory nowhere"),
    ((), {}, {"y": np.full(ROWS, 3)}, "y[0] is 3, but the ensemble's classes are 0 to 2"),
    ((), {}, {"y": np.zeros(ROWS, int)}, "are all of class 0"),
    ((), {}, {"sharp": np.full((ROWS, 3), np.nan)}, "sharp[0] is not a finite number"),
    ((), {"sharp": np.zeros((ROWS, 2))}, {}, ""),
    (("--outside", "nowhere.npz"), {}, {}, "--outside nowhere.npz: No such file"),
]


@pytest.mark.parametrize(("arguments", "more", "arrays", "problem"), MISTAKES)
def test_mistakes(files, arguments, more, arrays, problem):
    result = files.calibrate(*arguments, data=files.data(**arrays, **more))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert problem in result.stderr


def test_ensembles_that_can_not_be_calibrated(files):
    normals = {"a": {**fake(), "output": "normal"}}
    (files.folder / "house.py").write_text("def rule(p, weights, members): return p[0]")
    document = config_of(normals, rule="house:rule")
    result = files.calibrate(config=files.config(document))
    assert result.exit_code == 2
    assert "calibration needs members that give classes or numbers, and a rule" in result.stderr
    document = config_of()
    del document["ensembles"]
    assert "the configuration has none" in files.calibrate(config=files.config(document)).stderr
    document = config_of()
    document["ensembles"]["other"] = {"members": ["sharp"]}
    result = files.calibrate(config=files.config(document))
    assert "which ensemble is to be calibrated? there are all, other" in result.stderr
