"""The built-in rules by name, and what each of them needs.

Imported by the combiner and where configurations are checked; pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy.typing as npt

from workers.rules.averages import (
    geometric_mean,
    maximum,
    mean,
    median,
    minimum,
    trimmed_mean,
    weighted_mean,
)
from workers.rules.ballots import rank_average, vote, weighted_vote
from workers.rules.nearest import medoid

__all__ = ["CUSTOM", "RULES", "TRAITS", "Array", "Rule", "Traits", "is_custom"]

Array = npt.NDArray[Any]
Rule = Callable[[Array, Array, Array], None]

#: The built-in functions by their name in the configuration.
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
}


class Traits(NamedTuple):
    """What a rule needs.

    Attributes:
        weights: whether the configuration must, may or must not give weights.
        needs: what the members' output must be: `classes` is a last axis to choose from.
        members: the fewest members with which it makes sense.
    """

    weights: Literal["none", "optional", "required"] = "none"
    needs: Literal["anything", "classes", "probabilities"] = "anything"
    members: int = 1


#: What can be checked of each rule that has a name of its own, in the order of the documentation.
TRAITS: dict[str, Traits] = {
    "mean": Traits(),
    "weighted_mean": Traits(weights="required"),
    "geometric_mean": Traits(needs="probabilities"),
    "median": Traits(),
    "trimmed_mean": Traits(),
    "max": Traits(),
    "min": Traits(),
    "vote": Traits(needs="classes"),
    "weighted_vote": Traits(weights="required", needs="classes"),
    "rank_average": Traits(needs="classes"),
    "medoid": Traits(weights="optional", members=3),
    "stack": Traits(),
}

#: What can be checked of a user's own rule by its name.
CUSTOM = Traits(weights="optional")


def is_custom(rule: str) -> bool:
    """Whether a rule is a user's own: ``package.module:function``."""
    return ":" in rule
