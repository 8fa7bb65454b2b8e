"""The `ensembles` section: which members answer together, and how their predictions are combined.

Runs in the process that reads the configuration file; the section flows in as a mapping and out as
a frozen model. `server.config.root` checks that the members exist.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from server.config.base import Distinct, MemberName, Section, Version, versions_as_text
from server.config.boxes import BoxesConfig
from server.config.files import FilePath
from server.config.rollout import RolloutConfig
from server.config.validation import Validation
from server.errors import did_you_mean
from workers.rules import TRAITS, is_custom
from workers.rules.builtin import DEFAULT_TRIM, trimmed
from workers.rules.catalogue import CUSTOM, STACK

__all__ = ["NO_RULE", "EnsembleConfig"]

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)

#: What an ensemble with versions may have beside them.
_OF_ALL_VERSIONS = ("rollout", "validation")
#: Instead of a rule: the members' own predictions of an output are not combined.
NO_RULE = "none"

_RULE_SCHEMAS = [
    {"type": "string", "enum": list(TRAITS)},
    {"type": "string", "pattern": f"^{_REFERENCE.pattern}$"},
]
_RULE_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            *_RULE_SCHEMAS,
            {
                "type": "object",
                "additionalProperties": {"anyOf": [*_RULE_SCHEMAS, {"const": NO_RULE}]},
                "minProperties": 1,
            },
        ]
    }
)

_WEIGHTS_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}},
            {"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0}},
        ]
    }
)


class EnsembleConfig(Section):
    """A list of members and a combination rule, served as one model; or several versions of it."""

    members: Distinct[MemberName] = ()
    """Names of its members, without repetition; required, unless it has versions. Of a member with
    versions it is the newest that is served and not under roll-out, or `NAME@VERSION`."""
    versions: dict[Version, EnsembleConfig] = Field(default={}, min_length=1)
    """Its versions, each a whole section with members and rule; there is nothing beside them but
    `rollout` and `validate` then."""
    rule: Annotated[str | dict[str, str], _RULE_SCHEMA] = "mean"
    """How the members' predictions become one answer: a built-in rule, or a function of your own,
    `package.module:function`, of an installed module or one in this file's directory. See
    [combination.md](combination.md). Members with several outputs are combined in all that a
    built-in rule can combine (`stack` and functions of your own: in the main one); a mapping from
    outputs to rules says it for each, `none` for an output that is not to be combined, as one that
    it does not name: `{class: mean, embedding: none}`. See [outputs.md](outputs.md)."""
    weights: Annotated[tuple[PositiveFloat, ...], _WEIGHTS_SCHEMA] | None = None
    """A list in the members' order, or a mapping by member: required by `weighted_mean` and
    `weighted_vote`, optional for `medoid` and a function of your own."""
    trim: float | None = Field(default=None, gt=0, lt=0.5)
    """For `trimmed_mean` only: the share of the members cut at each end; 0.2 if absent."""
    boxes: BoxesConfig | None = None
    """For `weighted_boxes`, `nms` and `soft_nms` only: their limits."""
    meta: FilePath | None = None
    """For `stack` only: the meta-model, an ONNX file."""
    meta_output: str | None = Field(default=None, min_length=1)
    """Which of the meta-model's outputs is the answer; required if it has several."""
    policy: Literal["strict", "quorum", "best-effort"] | None = None
    """How many members an answer needs: `strict` is all, `quorum` is that key's number,
    `best-effort` is one. If absent, `quorum` decides."""
    quorum: int | None = Field(default=None, ge=1)
    """The fewest members that an answer needs; all of them if absent."""
    labels: FilePath | None = None
    """File with one label per line: the classes of the answer, in order; a relative path. If
    absent, they are the members' own: the union, if they differ."""
    deadline_ms: NonNegativeFloat = 0.0
    """After this time a request is answered from the members that are done, if they are a quorum;
    0: never."""
    cascade: tuple[Annotated[tuple[MemberName, ...], Field(min_length=1)], ...] | None = Field(
        default=None, min_length=2
    )
    """Stages of members: a row that is confident enough after one skips the later ones."""
    confidence: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = None
    """For a cascade: the top class's probability that suffices, after each stage but the last."""
    conformal: FilePath | None = None
    """What `ensembled calibrate --conformal` has fitted for the coverage of sets of classes and of
    intervals: a JSON file, by relative path. See [calibration.md](calibration.md)."""
    coverage: float | None = Field(default=None, gt=0, lt=1)
    """How often the outputs `interval` and `prediction_set` shall hold the truth where a request
    does not say it; 0.9 if absent."""
    rollout: RolloutConfig | None = None
    """One of its `versions` is tried on real requests; see [rollouts.md](rollouts.md)."""
    validation: Validation | None = Field(default=None, alias="validate")
    """Rows on which a change of what is served must keep the answers, or nothing is changed: a file
    (.npz), or a mapping with `data`. See [changes.md](changes.md)."""

    @property
    def sections(self) -> dict[str, EnsembleConfig]:
        """Itself, or its versions, by the rest of their key."""
        return {f".versions.{one}": section for one, section in self.versions.items()} or {"": self}

    @property
    def required_members(self) -> int:
        """The quorum as a number."""
        if self.policy == "best-effort":
            return 1
        return len(self.members) if self.quorum is None else self.quorum

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that are used, each once; at least one."""
        named = [self.rule] if isinstance(self.rule, str) else self.rule.values()
        return tuple(dict.fromkeys(rule for rule in named if rule != NO_RULE))

    def options(self, rule: str) -> dict[str, float | str]:
        """Return the arguments of a built-in rule's function that are configured."""
        keys = () if rule == STACK else TRAITS.get(rule, CUSTOM).options
        options = {key: value for key in keys if (value := getattr(self, key)) is not None}
        if (boxes := options.pop("boxes", None)) is not None:
            options |= boxes.model_dump(exclude_none=True)
        return options

    @model_validator(mode="before")
    @classmethod
    def _need_members(cls, section: Any) -> Any:
        is_one = isinstance(section, Mapping) and "versions" not in section
        return {"members": None, **section} if is_one else section

    @field_validator("members", mode="before")
    @classmethod
    def _are_given(cls, members: Any) -> Any:
        if members is None:
            raise PydanticKnownError("missing")
        return members

    @field_validator("versions", mode="before")
    @classmethod
    def _versions_as_text(cls, versions: Any) -> Any:
        return versions_as_text(versions)

    @field_validator("rule")
    @classmethod
    def _known_or_custom(cls, rule: str | dict[str, str]) -> str | dict[str, str]:
        if isinstance(rule, str):
            _check_rule(rule)
            return rule
        for output, one in rule.items():
            if one != NO_RULE:
                _check_rule(one, f"{output}: ")
        if all(one == NO_RULE for one in rule.values()):
            raise ValueError("combines no output: give at least one of them a rule")
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
        if self.versions:
            self._check_versions()
            return self
        if self.rollout is not None:
            raise ValueError("rollout is for an ensemble with versions")
        members = len(self.members)
        if self.required_members > members:
            raise ValueError(f"quorum is {self.quorum}, but there are only {members} members")
        self._check_policy()
        self._check_weights()
        self._check_options()
        self._check_trim()
        self._check_meta()
        self._check_cascade()
        for rule in self.rules:
            if members < (fewest := TRAITS.get(rule, CUSTOM).members):
                raise ValueError(f"rule {rule} needs at least {fewest} members")
        return self

    def _check_versions(self) -> None:
        for key in self.model_fields_set - {"versions", *_OF_ALL_VERSIONS}:
            raise ValueError(f"{key} has no meaning beside versions: give it there")
        for version, section in self.versions.items():
            if section.versions:
                raise ValueError(f"versions.{version}: a version has no versions of its own")

    def _check_policy(self) -> None:
        if self.policy == "quorum" and self.quorum is None:
            raise ValueError("policy quorum needs quorum, the fewest members an answer may rest on")
        if self.policy in {"strict", "best-effort"} and self.quorum is not None:
            raise ValueError(f"policy {self.policy} needs no quorum, remove one of them")

    def _check_weights(self) -> None:
        wanted = {rule: TRAITS.get(rule, CUSTOM).weights for rule in self.rules}
        for rule, weights in wanted.items():
            if weights == "required" and self.weights is None:
                raise ValueError(f"rule {rule} needs weights, one per member")
        if self.weights is not None and set(wanted.values()) == {"none"}:
            raise ValueError(f"rule {', '.join(wanted)} has no use for weights")
        if self.weights is not None and len(self.weights) != len(self.members):
            raise ValueError(f"{len(self.weights)} weights for {len(self.members)} members")

    def _check_options(self) -> None:
        for traits in TRAITS.values():
            for key in traits.options:
                takers = [rule for rule, one in TRAITS.items() if key in one.options]
                if getattr(self, key) is not None and not set(takers) & set(self.rules):
                    raise ValueError(
                        f"{key} is for rule {' or '.join(takers)}, not {', '.join(self.rules)}"
                    )

    def _check_trim(self) -> None:
        trim = self.trim or DEFAULT_TRIM
        if "trimmed_mean" in self.rules and not trimmed(len(self.members), trim):
            raise ValueError(
                f"rule trimmed_mean cuts nothing of {len(self.members)} members with trim "
                f"{trim:g}: it needs {max(3, math.ceil(1 / trim - 1e-9))} members, or a trim of at "
                f"least 1/{max(3, len(self.members))}"
            )

    def _check_meta(self) -> None:
        if STACK not in self.rules:
            return
        if isinstance(self.rule, dict) and [*self.rule.values()].count(STACK) > 1:
            raise ValueError("only one output can be stacked: there is one meta-model")
        if self.meta is None:
            raise ValueError("rule stack needs meta, the path of an ONNX model")
        if self.meta.suffix.lower() != ".onnx":
            raise ValueError(f"meta should be an ONNX model (.onnx), not {self.meta.name}")
        if self.required_members < len(self.members):
            raise ValueError(
                "rule stack needs all members: remove quorum and policy, which let some be missing"
            )

    def _check_cascade(self) -> None:
        if self.cascade is None:
            if self.confidence is not None:
                raise ValueError("confidence is for a cascade")
            return
        if STACK in self.rules:
            raise ValueError("rule stack needs all members at once, which a cascade does not have")
        if sorted(member for stage in self.cascade for member in stage) != sorted(self.members):
            raise ValueError("cascade names each of the members once")
        if self.confidence is None or len(self.confidence) != len(self.cascade) - 1:
            raise ValueError(
                f"a cascade of {len(self.cascade)} stages needs confidence, a list of "
                f"{len(self.cascade) - 1}"
            )


def _check_rule(rule: str, where: str = "") -> None:
    """Raise ValueError unless it is a built-in rule or a reference to a function."""
    if is_custom(rule):
        if not _REFERENCE.fullmatch(rule):
            raise ValueError(f"{where}should be package.module:function, not {rule!r}")
    elif rule not in TRAITS:
        raise ValueError(
            f"{where}should be one of {', '.join(TRAITS)}, or package.module:function, "
            f"not {rule!r}{did_you_mean(rule, TRAITS)}"
        )
