"""The `ensembles` section: which members answer together, and how their answers are combined.

Runs in the process that reads the configuration file; the section flows in as a mapping and
out as a frozen model. That the members exist is checked by the whole configuration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, WithJsonSchema, field_validator, model_validator

from server.config.base import Name, RelativePath, Section

__all__ = ["EnsembleConfig", "Rule"]

Rule = Literal["mean", "weighted_mean", "vote", "median", "max", "geometric_mean"]

Policy = Literal["strict", "quorum", "best-effort"]

Weight = Annotated[float, Field(gt=0)]

_WEIGHTS_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}},
            {"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0}},
        ]
    }
)


class EnsembleConfig(Section):
    """A list of members and a combination rule, served as one model."""

    members: tuple[Name, ...] = Field(min_length=1)
    """Names of its members, each once."""
    rule: Rule = "mean"
    """How the members' predictions become one answer."""
    weights: Annotated[tuple[Weight, ...], _WEIGHTS_SCHEMA] | None = None
    """For `weighted_mean` only: a list in the members' order, or a mapping by member."""
    policy: Policy | None = None
    """`strict`: all members; `quorum`: so many; `best-effort`: one. As `quorum` says if absent."""
    quorum: int | None = Field(default=None, ge=1)
    """The fewest members that an answer may rest on; all of them if absent."""
    labels: RelativePath | None = None
    """File with one label per line: the classes of the answer, in their order; a relative path. If
    absent, they are the members' own, or all that any of them knows."""
    deadline_ms: float = Field(default=0.0, ge=0)
    """When a request is answered from the members that are done, if they are a quorum; 0: never."""
    cascade: tuple[Annotated[tuple[Name, ...], Field(min_length=1)], ...] | None = Field(
        default=None, min_length=2
    )
    """Stages of members: a row that is sure enough after one is not predicted by later ones."""
    confidence: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = None
    """Of a cascade: the best class's probability that is enough, after each stage but the last."""

    @property
    def required_members(self) -> int:
        """The quorum as a number."""
        if self.policy == "best-effort":
            return 1
        return len(self.members) if self.quorum is None else self.quorum

    @field_validator("members")
    @classmethod
    def _refuse_repetition(cls, members: tuple[str, ...]) -> tuple[str, ...]:
        repeated = [name for name, count in Counter(members).items() if count > 1]
        if repeated:
            raise ValueError(f"{repeated[0]!r} is listed more than once")
        return members

    @field_validator("rule", mode="before")
    @classmethod
    def _refuse_planned_rules(cls, rule: Any) -> Any:
        if isinstance(rule, str) and (rule == "stack" or ":" in rule):
            raise ValueError(f"{rule!r} is not available in this version, use a built-in rule")
        return rule

    @field_validator("weights", mode="before")
    @classmethod
    def _in_members_order(cls, weights: Any, info: ValidationInfo) -> Any:
        members = info.data.get("members")
        if not isinstance(weights, Mapping) or members is None:
            return weights
        if unknown := [str(name) for name in weights if name not in members]:
            raise ValueError(f"{unknown[0]!r} is not a member of this ensemble")
        if missing := [name for name in members if name not in weights]:
            raise ValueError(f"member {missing[0]!r} has no weight")
        return tuple(weights[name] for name in members)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.rule == "weighted_mean" and self.weights is None:
            raise ValueError("rule weighted_mean needs weights, one per member")
        if self.rule != "weighted_mean" and self.weights is not None:
            raise ValueError(f"weights are for rule weighted_mean, not {self.rule}")
        if self.weights is not None and len(self.weights) != len(self.members):
            raise ValueError(f"{len(self.weights)} weights for {len(self.members)} members")
        self._check_cascade()
        if self.policy == "quorum" and self.quorum is None:
            raise ValueError("policy quorum needs quorum, the fewest members an answer may rest on")
        if self.policy in {"strict", "best-effort"} and self.quorum is not None:
            raise ValueError(f"policy {self.policy} needs no quorum, remove one of them")
        if self.required_members > len(self.members):
            raise ValueError(
                f"quorum is {self.quorum}, but there are only {len(self.members)} members"
            )
        return self

    def _check_cascade(self) -> None:
        if self.cascade is None:
            if self.confidence is not None:
                raise ValueError("confidence is for a cascade")
            return
        staged = [member for stage in self.cascade for member in stage]
        if sorted(staged) != sorted(self.members):
            raise ValueError("cascade names each of the members once")
        if self.confidence is None or len(self.confidence) != len(self.cascade) - 1:
            raise ValueError(
                f"a cascade of {len(self.cascade)} stages needs confidence, a list of "
                f"{len(self.cascade) - 1}"
            )
