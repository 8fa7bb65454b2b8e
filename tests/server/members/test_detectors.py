"""What an ensemble of detectors needs of its configuration and its members."""

import json

import pytest

from server.config import load_config
from server.errors import ConfigError
from server.members.agreement import agreement_problems
from server.members.inspect import inspect_members


def load(tmp_path, outputs, **ensemble):
    fake = {"inputs": {"x": [4]}, "outputs": outputs}
    both = {"members": ["a", "b"], "rule": "weighted_boxes", **ensemble}
    member = {"model": "fake", "fake": fake, "outputs": {name: {} for name in outputs}}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"ensembles": {"e": both}, "members": {"a": member, "b": member}}))
    return load_config(path)


def problems(config):
    return [*agreement_problems(config, {one.name: one for one in inspect_members(config)})]


BOXES = {"boxes": [3, 4], "scores": [3], "classes": [3]}


def test_detectors_that_fit(tmp_path):
    assert problems(load(tmp_path, BOXES, boxes={"iou": 0.4, "most": 2})) == []


def test_outputs_that_are_missing(tmp_path):
    (problem,) = problems(load(tmp_path, {"boxes": [3, 4], "scores": [3]}))
    assert problem.startswith(
        "ensembles.e.rule: weighted_boxes combines the outputs boxes, scores, classes of the "
        "members, they have boxes, scores"
    )


@pytest.mark.parametrize(
    "changed", [{"boxes": [3, 5]}, {"scores": [2]}, {"classes": []}, {"scores": [3, 1]}]
)
def test_outputs_that_are_no_boxes(tmp_path, changed):
    first, second = problems(load(tmp_path, {**BOXES, **changed}))
    assert "needs boxes [k, 4], scores [k] and classes [k] that are values, 'a' gives" in first
    assert "'b' gives" in second


@pytest.mark.parametrize(
    ("ensemble", "problem"),
    [
        ({"rule": "mean", "boxes": {"iou": 0.5}}, "boxes is for rule weighted_boxes or nms"),
        ({"boxes": {"iou": 1}}, "boxes.iou: should be less than 1"),
        ({"boxes": {"iuo": 0.5}}, "boxes.iuo: unknown key, did you mean 'iou'"),
        ({"boxes": {"score": "mean"}}, "boxes.score: should be 'average', 'maximum'"),
    ],
)
def test_options_that_are_wrong(tmp_path, ensemble, problem):
    with pytest.raises(ConfigError, match=problem):
        load(tmp_path, BOXES, **ensemble)
