"""Fits and evaluations of ensembles with every rule; nothing is served."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from scipy import special

from server.calibration.dataset import split_rows
from server.calibration.evaluation import evaluate
from server.calibration.fitting import FitOptions, fit, yaml_fragment
from server.calibration.target import CalibrationTarget
from server.calibration.temperature_scaling import HIGHEST
from server.config import EnsembleConfig, MemberConfig
from server.errors import ConfigError
from server.members.classes import MatchedClasses
from server.members.inspect import InspectedMember
from workers.rules import RULES
from workers.runtime.spec import ModelSignature, ModelSource, TensorSpec

NAMES = ("a", "b", "on")
WEIGHTS = {"weights": [1.0, 2.0, 3.0]}


def target_of(rule="mean", meaning="logits", stages=None, names=NAMES, of="all", **options):
    network = {"model": "fake", "fake": {"inputs": {"x": [4]}, "outputs": 4}}
    if meaning == "class":
        network |= {"classes": 4}
    config = MemberConfig.model_validate({**network, "output": meaning})
    output = TensorSpec("o", "INT64", ()) if meaning == "class" else TensorSpec("o", "FP32", (4,))
    signature = ModelSignature((TensorSpec("x", "FP32", (4,)),), (output,), 0)
    members = tuple(
        InspectedMember(name, config, ModelSource(name, "fake"), signature) for name in names
    )
    ensemble = EnsembleConfig.model_validate({"members": names, "rule": rule, **options})
    stages = stages or tuple((name,) for name in names)
    return CalibrationTarget(of, ensemble, members, MatchedClasses(), stages, "as listed", None)


def rows_of(seed=0, rows=200):
    random = np.random.default_rng(seed)
    y = random.integers(0, 4, rows)
    noise = random.normal(0, 1.5, (3, rows, 4))
    return special.softmax(2 * (2 * np.eye(4)[y] + noise), axis=2), y


def both(target, **options):
    p, y = rows_of()
    rows = split_rows(y, 0.5, 0)
    found = fit(target, p, y, rows=rows[0], options=FitOptions(**options))
    return found, evaluate(target, found, p, y, rows=rows)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule):
    options = WEIGHTS if rule in {"weighted_mean", "weighted_vote"} else {}
    options |= {"trim": 0.4} if rule == "trimmed_mean" else {}
    target = target_of(rule, **options)
    found, evaluation = both(target)
    assert "mean" in evaluation.combined
    assert (f"{rule}, as configured" in evaluation.combined) == (rule != "mean")
    for one in evaluation.combined.values():
        assert 0.3 < one.accuracy <= 1
    written = yaml.safe_load(yaml_fragment(target, found, "about"))
    assert written["ensembles"]["all"]["rule"] == rule
    # What is written down is valid together with what was there before.
    EnsembleConfig.model_validate({"members": NAMES, **options} | written["ensembles"]["all"])
    assert set(written["members"]) == set(NAMES), "also one whose name YAML takes for a truth value"
    assert evaluation.members["a"].after.log_loss < evaluation.members["a"].before.log_loss


@pytest.mark.parametrize("weighting", ["fitted", "selected"])
def test_weights_that_are_asked_for(weighting):
    target = target_of("vote")
    found, evaluation = both(target, weighting=weighting)
    written = yaml.safe_load(yaml_fragment(target, found, "about"))["ensembles"]["all"]
    assert written["rule"] == "weighted_mean"
    config = EnsembleConfig.model_validate({"members": NAMES, **written})
    assert config.weights == (found.weights if weighting == "fitted" else found.selection)
    name = "weighted mean, fitted" if weighting == "fitted" else "greedy selection"
    assert evaluation.cascade.whole_accuracy == evaluation.combined[name].accuracy


def test_versions_are_written_where_they_are_in_the_configuration():
    names = ("cat@1", "dog@3", "cat@2")
    target = target_of("vote", names=names, of="pets@2")
    found, _ = both(target, weighting="fitted")
    text = yaml_fragment(target, found, "about")
    written = yaml.safe_load(text)
    one, three, two = found.temperatures
    assert written["members"] == {
        "cat": {"model": {"versions": {"1": {"temperature": one}, "2": {"temperature": two}}}},
        "dog": {"temperature": three},
    }
    assert "  dog:\n    # Of version 3:\n    temperature:" in text
    assert "  pets:\n    # Of version 2:\n    rule: weighted_mean" in text
    assert list(written["ensembles"]["pets"]["weights"]) == ["cat@1", "dog", "cat@2"]
    assert written["ensembles"]["pets"]["cascade"] == [["cat@1"], ["dog"], ["cat@2"]]


def test_classes_have_no_temperature():
    target = target_of("vote", meaning="class")
    p, y = rows_of()
    p = np.eye(4)[p.argmax(axis=2)]
    rows = split_rows(y, 0.5, 0)
    found = fit(target, p, y, rows=rows[0], options=FitOptions())
    assert found.temperatures == (1, 1, 1)
    np.testing.assert_array_equal(found.predictions, p)
    text = yaml_fragment(target, found, "about")
    assert "temperature:" not in text
    assert yaml.safe_load(text)["ensembles"]["all"]["rule"] == "vote"


def test_a_member_that_is_right_in_all_rows_keeps_its_temperature():
    target = target_of()
    p, y = rows_of()
    p[0] = 0.1 + 0.6 * np.eye(4)[y]
    found = fit(target, p, y, rows=np.arange(100), options=FitOptions())
    assert found.temperatures[0] == 1
    assert "a is right in all rows: its temperature can't be fitted" in found.notes


def test_a_member_that_knows_nothing_has_the_highest_temperature():
    p, y = rows_of()
    p[1] = 0.1 + 0.6 * np.eye(4)[(y + 1) % 4]
    found = fit(target_of(), p, y, rows=np.arange(100), options=FitOptions())
    assert found.temperatures[1] == HIGHEST
    assert any(note.startswith("b is no better than chance") for note in found.notes)


def test_one_stage_is_no_cascade():
    found, evaluation = both(target_of(stages=(NAMES,)))
    assert found.confidence is None
    assert evaluation.cascade is None
    assert "no cascade: there is only one stage" in found.notes


def test_a_rule_that_fails(tmp_path):
    (tmp_path / "own.py").write_text("def rule(predictions, **_):\n    raise ValueError('no')\n")
    target = replace(target_of("own:rule"), directory=str(tmp_path))
    p, y = rows_of()
    with pytest.raises(ConfigError, match="own:rule"):
        fit(target, p, y, rows=np.arange(100), options=FitOptions())
