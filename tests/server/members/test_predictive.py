"""Ensembles of numbers: what goes together, what the front-end is told, what was fitted."""

import json

import pytest
from inspected import composed, meaning, problems

from server.config import Config, EnsembleConfig
from server.errors import ConfigError
from server.members.predictive import fitted_for
from workers.runtime.spec import TensorSpec

PAIR = TensorSpec("y", "FP32", (2,))
PAIRS = TensorSpec("y", "FP64", (3, 2))
LEVELS = {"levels": [0.1, 0.5, 0.9]}


def normals(*names, output=PAIR):
    return [meaning(name, "normal", output) for name in names or ("a", "b")]


def quantiles(*names, **options):
    return [meaning(name, "quantiles", **{**LEVELS, **options}) for name in names or ("a", "b")]


def ensemble_of(members, **ensemble):
    names = [one.name for one in members]
    models = composed(members, {"e": {"members": names, **ensemble}}).models
    return next(model for model in models if model.served.name == "e")


def test_the_answer_of_a_mixture_is_its_mean():
    model = ensemble_of(normals(output=PAIRS), rule="mixture")
    spec = model.served.spec
    assert spec.output == TensorSpec("output", "FP64", (3,))
    assert spec.predicted == TensorSpec("output", "FP64", (3, 2))
    assert spec.scores == ()
    assert model.predictive.kind == "normal"
    assert model.predictive.coverage == 0.9


def test_members_by_themselves_answer_what_they_predict():
    member = composed(normals("a")).models[-1]
    assert member.served.spec.output.shape == (2,)
    assert member.predictive is None


def test_quantiles_are_averaged_as_they_are():
    model = ensemble_of(quantiles(), rule="mean")
    assert model.served.spec.output.shape == (3,)
    assert model.predictive.kind == "quantiles"
    assert model.predictive.levels == (0.1, 0.5, 0.9)
    assert model.predictive.coverage == 0.8, "the most that they cover"


def test_of_what_a_users_rule_answers_nothing_is_known(tmp_path):
    (line,) = problems([meaning("a", "values")], rule="house:rule", conformal=str(tmp_path))
    assert "is for classes and numbers, not for what house:rule answers" in line


def test_values_have_intervals_only_once_they_were_calibrated():
    assert ensemble_of([meaning("a", "values")]).predictive is None
    assert ensemble_of([meaning("a", "values")], rule="mixture").predictive.kind == "values"


@pytest.mark.parametrize(
    ("members", "ensemble", "complaint"),
    [
        (normals(), {}, "ensembles.e.rule: members that give a mean and a variance need mixture"),
        (normals(), {"rule": "vote"}, "need mixture, not vote"),
        ([meaning("a", "logits")], {"rule": "mixture"}, "normal or values, not logits"),
        (quantiles(), {"rule": "mixture"}, "normal or values, not quantiles"),
        (quantiles(), {"rule": "vote"}, "vote is for classes, quantiles need mean"),
        (quantiles(), {"rule": "geometric_mean"}, "geometric_mean is for classes"),
        (
            [*normals("a", output=PAIR), meaning("b", "values", PAIR)],
            {"rule": "mixture"},
            "'a' gives normal, 'b' gives values",
        ),
        ([*quantiles("a"), meaning("b", "logits")], {}, "'a' gives quantiles, 'b' gives logits"),
        (
            [*quantiles("a"), *quantiles("b", levels=[0.2, 0.5, 0.8])],
            {},
            "members disagree on their quantiles: 'a' gives [0.1, 0.5, 0.9], 'b' gives [0.2,",
        ),
        ([meaning("a", "values")], {"coverage": 0.9}, "coverage: needs conformal, or members"),
        ([meaning("a", "logits")], {"coverage": 0.9}, "coverage: needs conformal, or members"),
        (quantiles(), {"coverage": 0.9}, "0.9 is more than the members' quantiles cover, 0.8"),
        (
            normals("a", output=TensorSpec("y", "FP32", (3,))),
            {"rule": "mixture"},
            "the model gives",
        ),
        (normals("a", output=TensorSpec("y", "FP32", ())), {"rule": "mixture"}, "the model gives"),
        (
            normals("a", output=TensorSpec("y", "FP32", (-1, 2), (8, 2), ("n", ""))),
            {"rule": "mixture"},
            "mixture needs outputs of a fixed shape",
        ),
        (quantiles("a", levels=[0.1, 0.9]), {}, "2 levels need as many quantiles along the last"),
    ],
)
def test_what_does_not_go_together_is_refused(members, ensemble, complaint):
    assert any(complaint in line for line in problems(members, **ensemble)), complaint


@pytest.mark.parametrize("rule", ["mean", "weighted_mean", "median", "max", "medoid"])
def test_rules_that_keep_the_order_of_quantiles(rule):
    weights = {"weights": [1, 2, 1]} if rule == "weighted_mean" else {}
    assert ensemble_of(quantiles("a", "b", "c"), rule=rule, **weights).predictive


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ({"output": "quantiles"}, "needs levels"),
        ({"output": "quantiles", "levels": [0.9, 0.1]}, "levels should ascend"),
        ({"output": "quantiles", "levels": [0.1, 0.1]}, "levels should ascend"),
        ({"output": "quantiles", "levels": [0.1, 1]}, "less than 1"),
        ({"output": "values", "levels": [0.1]}, "levels is for `output: quantiles`, not values"),
        ({"output": "values", "spread": "std"}, "for `output: normal`, not values"),
        ({"output": "logits", "spread_output": "v"}, "for `output: normal`, not logits"),
        ({"output": "normal", "spread_output": "v"}, "spread_output needs output_name"),
        ({"output": "normal", "spread": "sd"}, "variance"),
        ({"output": "normal", "temperature": 2}, "temperature is for logits"),
        ({"outputs": {"y": {"as": "quantiles"}}}, "needs levels"),
    ],
)
def test_sections_of_members(section, complaint):
    with pytest.raises(ValueError, match=complaint):
        Config.model_validate({"members": {"a": {"model": {"recipe": "any"}, **section}}})


# -- what was fitted -------------------------------------------------------------------------------


class Fitted:
    """A file of an ensemble of values of three outputs."""

    def __init__(self, folder):
        self.path = folder / "fitted.json"
        self.members = [meaning("a", "values"), meaning("b", "values")]
        config = EnsembleConfig(members=("a", "b"), rule="median")
        ranks = list(range(1, 40))
        self.document = {
            "about": "",
            "fitted_for": fitted_for(config, self.members),
            "conformal": {
                "method": "absolute",
                "rows": 39,
                "ranks": ranks,
                "scores": [[rank / 10 for rank in ranks]] * 3,
            },
        }

    def write(self):
        self.path.write_text(json.dumps(self.document))
        return {"rule": "median", "conformal": str(self.path)}

    def problems(self, **ensemble):
        return problems(self.members, **{**self.write(), **ensemble})


@pytest.fixture
def fitted(tmp_path):
    return Fitted(tmp_path)


def test_what_was_fitted_is_read(fitted):
    predictive = ensemble_of(fitted.members, **fitted.write(), coverage=0.5).predictive
    assert predictive.conformal.method == "absolute"
    assert predictive.coverage == 0.5


@pytest.mark.parametrize(
    ("ensemble", "complaint"),
    [
        ({"rule": "mean"}, "was fitted for another rule: median, now mean; run `ensembled"),
        ({"coverage": 0.99}, "ensembles.e.coverage: a coverage of 0.99 needs 99 calibration rows"),
    ],
)
def test_what_was_fitted_for_something_else_is_refused(fitted, ensemble, complaint):
    (line,) = fitted.problems(**ensemble)
    assert complaint in line


def test_other_members_need_another_calibration(fitted):
    fitted.members = fitted.members[::-1]
    assert "another members" in fitted.problems()[0]


@pytest.mark.parametrize(
    "change",
    [
        {"scores": [[1.0]]},
        {"scores": [[0.1 * rank for rank in range(39, 0, -1)]] * 3},
        {"ranks": [1, 2], "scores": [[1, 2]] * 3},
        {"ranks": [], "scores": [[]] * 3},
    ],
)
def test_damaged_scores(fitted, change):
    fitted.document["conformal"].update(change)
    assert "don't fit this ensemble, or are damaged" in fitted.problems()[0]


def test_a_file_of_something_else(fitted):
    fitted.document = {"scores": []}
    assert "is not by `ensembled calibrate --conformal`" in fitted.problems()[0]
    fitted.write()
    fitted.path.unlink()
    config = {"rule": "median", "conformal": str(fitted.path)}
    with pytest.raises(ConfigError, match="No such file"):
        composed(fitted.members, {"e": {"members": ["a", "b"], **config}})
