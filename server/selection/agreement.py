"""Which members of a library can answer together: those that agree with most of the others.

Runs in the process of the command line; pure, except for reading label files. Inspected members
flow in; those that could be in one ensemble flow out, with what they predict, and why the others
could not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from server.config import Config, EnsembleConfig
from server.errors import ConfigError
from server.members.agreement import agreement_problems
from server.members.classes import MatchedClasses, match_classes
from server.members.inspect import InspectedMember
from server.members.predictive import predictive_kind

__all__ = ["ENSEMBLE", "Agreed", "agree", "ensemble_of", "nobody_left"]

#: What the ensemble of any members is called in messages.
ENSEMBLE = "library"

Kind = Literal["classes", "values"]


@dataclass(frozen=True)
class Agreed:
    """Members that agree on what goes in and comes out.

    `classes` are those of their answers, and where members have them.
    """

    members: tuple[InspectedMember, ...]
    kind: Kind
    classes: MatchedClasses

    @property
    def number_of_classes(self) -> int:
        """How many classes answers have."""
        own: int = self.members[0].prediction.shape[0]
        return len(self.classes.labels) if self.classes.columns else own

    @classmethod
    def of(cls, members: Sequence[InspectedMember], kind: Kind) -> Agreed:
        """Return members that agree, with their classes."""
        classes = MatchedClasses()
        if kind == "classes":
            classes = match_classes([member.output for member in members], ())
        return cls(tuple(members), kind, classes)


def nobody_left(config: Config, left_out: Mapping[str, str]) -> ConfigError:
    """Return the error that says that no member can be used, and why."""
    reasons = [f"{name}: {why}" for name, why in left_out.items()]
    return ConfigError([f"{config.path}: no member is left to select from", *reasons])


def ensemble_of(names: Sequence[str]) -> EnsembleConfig:
    """Return the section of an ensemble as `select` makes them: a weighted mean."""
    section = {"members": [*names], "rule": "weighted_mean", "weights": [1.0] * len(names)}
    return EnsembleConfig.model_validate(section)


def agree(
    config: Config, members: Mapping[str, InspectedMember], left_out: dict[str, str]
) -> Agreed:
    """Return the members that agree; the others are added to `left_out`, with the reason.

    Raises:
        ConfigError: if there is none.
    """
    kinds = {name: kind for name, one in members.items() if (kind := _kind(config, one, left_out))}
    if not kinds:
        raise nobody_left(config, left_out)
    looks = {name: _look(members[name], kind) for name, kind in kinds.items()}
    usual = Counter(looks.values()).most_common(1)[0][0]
    first = next(name for name, look in looks.items() if look == usual)
    kept = [name for name in kinds if not _differs(config, members, first, name, left_out)]
    return Agreed.of([members[name] for name in kept], kinds[first])


def _kind(config: Config, member: InspectedMember, left_out: dict[str, str]) -> Kind | None:
    """What a member predicts; None if it is left out."""
    alone = config.model_copy(update={"ensembles": {}})
    for problem in agreement_problems(alone, {member.name: member}):
        left_out[member.name] = problem.removeprefix(f"members.{member.name}.")
        return None
    kind = predictive_kind(ensemble_of([member.name]), [member])
    match kind:
        case "classes" | "values":
            return kind
    left_out[member.name] = (
        f"its output is {member.output.config.kind} of shape {list(member.prediction.shape)}: "
        "selection is for a probability per class, or numbers of a fixed shape"
    )
    return None


def _look(member: InspectedMember, kind: Kind) -> object:
    """Equal for members that obviously agree."""
    return kind, member.input_key, member.labels or member.prediction.shape


def _differs(
    config: Config,
    members: Mapping[str, InspectedMember],
    first: str,
    name: str,
    left_out: dict[str, str],
) -> bool:
    """Whether a member can't be in an ensemble with the first one, and is left out."""
    if name == first:
        return False
    pair = {one: members[one] for one in (first, name)}
    together = config.model_copy(update={"ensembles": {ENSEMBLE: ensemble_of([*pair])}})
    problem = next(agreement_problems(together, pair), None)
    labels = [set(one.labels) for one in pair.values()]
    if problem is None and all(labels) and not labels[0] & labels[1]:
        problem = f"it has other classes than {first!r}: {', '.join(sorted(labels[1])[:3])}, ..."
    if problem is None:
        return False
    left_out[name] = problem.removeprefix(f"ensembles.{ENSEMBLE}: ")
    return True
