"""The built-in rules by name, and the requirements of each.

Imported by the combiner and where configurations are checked; pure.
"""

from __future__ import annotations

from collections.abc import Callable
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
from workers.rules.distributions import mixture

__all__ = ["Array", "CUSTOM", "RULES", "Rule", "RuleError", "TRAITS", "Traits", "is_custom"]


class RuleError(Exception):
    """A rule can't be loaded, or has failed on some rows; the text is one line."""


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
    "mixture": mixture,
}


class Traits(NamedTuple):
    """The requirements of a rule.

    Attributes:
        weights: whether the configuration must not, may or must give weights.
        needs: the required kind of the members' output; `classes` is a last axis to choose from,
            `numbers` are values, or means and variances.
        members: the fewest members with which it makes sense.
    """

    weights: Literal["none", "optional", "required"] = "none"
    needs: Literal["anything", "classes", "probabilities", "numbers"] = "anything"
    members: int = 1


#: The requirements of each rule with a name of its own, in the order of the documentation.
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
    "mixture": Traits(weights="optional", needs="numbers"),
    "stack": Traits(),
}

#: The requirements of every custom rule.
CUSTOM = Traits(weights="optional")


def is_custom(rule: str) -> bool:
    """Whether a rule is a user's function: ``package.module:function``."""
    return ":" in rule
