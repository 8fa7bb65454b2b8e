"""The built-in rules by name, and the requirements of each.

Imported by the combiner and where configurations are checked; pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy.typing as npt

from workers.rules.builtin import (
    geometric_mean,
    maximum,
    mean,
    median,
    medoid,
    minimum,
    rank_average,
    trimmed_mean,
    vote,
    weighted_mean,
    weighted_vote,
)
from workers.rules.detection import nms, soft_nms, weighted_boxes
from workers.rules.distributions import mixture
from workers.runtime.spec import TensorSpec

__all__ = [
    "Array",
    "CUSTOM",
    "Combined",
    "JOINT_RULES",
    "Options",
    "RULES",
    "Rule",
    "RuleError",
    "STACK",
    "TRAITS",
    "Traits",
    "is_custom",
    "like_the_first",
]


class RuleError(Exception):
    """A rule can't be loaded, or has failed on some rows; the text is one line."""


Array = npt.NDArray[Any]
#: Predictions [members, rows, *outputs], weights [members], the answer [rows, *outputs] to write;
#: the options of its traits by name.
Rule = Callable[..., None]
Options = Mapping[str, float | str]

#: The built-in functions of one output, by their name in the configuration.
RULES: dict[str, Rule] = {
    "mean": mean,
    "weighted_mean": weighted_mean,
    "geometric_mean": geometric_mean,
    "median": median,
    "trimmed_mean": trimmed_mean,
    "max": maximum,
    "min": minimum,
    "vote": vote,
    "weighted_vote": weighted_vote,
    "rank_average": rank_average,
    "medoid": medoid,
    "mixture": mixture,
}


#: Built-in functions of several outputs: lists of predictions and answers instead of one each.
JOINT_RULES: dict[str, Rule] = {
    "weighted_boxes": weighted_boxes,
    "nms": nms,
    "soft_nms": soft_nms,
}


class Combined(NamedTuple):
    """What a rule combines: a member's prediction of one row, and the kind of its output."""

    tensor: TensorSpec
    kind: str


def like_the_first(inputs: Sequence[Combined], _options: Options) -> tuple[TensorSpec, ...]:
    """The answer of most rules: of the shape and type of what they combine."""
    return (inputs[0].tensor,)


def _means(inputs: Sequence[Combined], _options: Options) -> tuple[TensorSpec, ...]:
    """Of normal distributions, [*shape, 2], only the means, [*shape]."""
    tensor, kind = inputs[0]
    return (tensor.without(-1) if kind == "normal" else tensor,)


def _detections(inputs: Sequence[Combined], options: Options) -> tuple[TensorSpec, ...]:
    """The boxes of an answer, best first, with scores and classes, and how many there are."""
    boxes, scores, classes = (one.tensor for one in inputs)
    most = int(options.get("most") or boxes.stored_shape[0])
    return (
        TensorSpec(boxes.name, boxes.datatype, (most, 4)),
        TensorSpec(scores.name, boxes.datatype, (most,)),
        TensorSpec(classes.name, "INT64", (most,)),
        TensorSpec("count", "INT64", ()),
    )


class Traits(NamedTuple):
    """The requirements of a rule.

    Attributes:
        weights: whether the configuration must not, may or must give weights.
        needs: the required kind of the members' output; `classes` is a last axis to choose from,
            `numbers` are values, or means and variances.
        members: the fewest members with which it makes sense.
        options: keys of an ensemble's section that only rules like it have a use for; those that
            are given are arguments of its function.
        takes: for one of `JOINT_RULES`, the outputs of the members that it combines together, by
            the clients' names; empty for a rule of any one output.
        yields: its outputs for one row, from one member's predictions and the options.
    """

    weights: Literal["none", "optional", "required"] = "none"
    needs: Literal["anything", "classes", "probabilities", "numbers"] = "anything"
    members: int = 1
    options: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    yields: Callable[[Sequence[Combined], Options], tuple[TensorSpec, ...]] = like_the_first


#: Of the rules for boxes.
_BOXES = Traits(
    weights="optional",
    options=("boxes",),
    takes=("boxes", "scores", "classes"),
    yields=_detections,
)

#: The rule of a meta-model.
STACK = "stack"

#: The requirements of each rule with a name of its own, in the order of the documentation.
TRAITS: dict[str, Traits] = {
    "mean": Traits(),
    "weighted_mean": Traits(weights="required"),
    "geometric_mean": Traits(needs="probabilities"),
    "median": Traits(),
    "trimmed_mean": Traits(options=("trim",)),
    "max": Traits(),
    "min": Traits(),
    "vote": Traits(needs="classes"),
    "weighted_vote": Traits(weights="required", needs="classes"),
    "rank_average": Traits(needs="classes"),
    "medoid": Traits(weights="optional", members=3),
    "mixture": Traits(weights="optional", needs="numbers", yields=_means),
    "weighted_boxes": _BOXES,
    "nms": _BOXES,
    "soft_nms": _BOXES,
    STACK: Traits(options=("meta", "meta_output")),
}

#: The requirements of every custom rule.
CUSTOM = Traits(weights="optional")


def is_custom(rule: str) -> bool:
    """Whether a rule is a user's function: ``package.module:function``."""
    return ":" in rule
