"""Ensembles of numbers and their distributions, and what was fitted for their coverage.

Runs in the supervisor before anything is started; pure, except for reading what was fitted. The
configuration and inspected members flow in; a line per problem, and what the front-end needs for
intervals, quantiles and sets of classes, flow out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from server.config import EnsembleConfig
from server.errors import ConfigError
from server.inference.conformal import ConformalSpec, TooFewRows, threshold_rank
from server.inference.spec import PredictiveKind, PredictiveSpec
from server.members.combining import PlannedRule, planned_rules, shared_outputs
from server.members.inspect import InspectedMember
from workers.rules import TRAITS
from workers.rules.catalogue import STACK

__all__ = [
    "DEFAULT_COVERAGE",
    "ConformalDocument",
    "fitted_for",
    "predictive_kind",
    "predictive_problems",
    "predictive_spec",
]

#: Of intervals and sets, where neither the request nor the configuration says it.
DEFAULT_COVERAGE = 0.9
_MIXTURE = "mixture"


class ConformalDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file of an ensemble's key `conformal`, as `ensembled calibrate` writes it.

    Attributes:
        about: where it comes from, for people.
        fitted_for: what it depends on, by name; see the function.
        conformal: what was fitted.
    """

    about: str
    fitted_for: dict[str, Any]
    conformal: ConformalSpec


def predictive_kind(
    ensemble: EnsembleConfig, members: Sequence[InspectedMember]
) -> PredictiveKind | None:
    """Return what an ensemble's main output is, None if that is not known."""
    planned = _main(ensemble, members)
    rule, output = planned.rule, planned.combined[0].present[0]
    if -1 in output.prediction.shape or len(planned.combined) > 1:
        return None
    match output.config.kind:
        case "normal":
            return "normal" if rule == _MIXTURE else None
        case "values" | "quantiles" as kind:
            # A user's rule, or a meta-model, may answer with something else.
            return kind if rule in TRAITS and rule != STACK else None
    has_classes = output.gives_classes and len(output.prediction.shape) == 1
    return "classes" if has_classes and rule != STACK else None


def _main(ensemble: EnsembleConfig, members: Sequence[InspectedMember]) -> PlannedRule:
    return planned_rules(ensemble, shared_outputs(members))[0]


def predictive_spec(
    name: str, ensemble: EnsembleConfig, members: Sequence[InspectedMember]
) -> PredictiveSpec | None:
    """Return what an ensemble can say beside its answer, None for nothing.

    Raises:
        ConfigError: if its file of what was fitted can't be used.
    """
    kind, planned = predictive_kind(ensemble, members), _main(ensemble, members)
    if kind is None or (
        kind in {"classes", "values"} and ensemble.conformal is None and planned.rule != _MIXTURE
    ):
        return None
    conformal = _read_conformal(name, ensemble, members)
    levels = planned.combined[0].present[0].config.levels
    spec = PredictiveSpec(kind, levels, DEFAULT_COVERAGE, conformal)
    coverage = ensemble.coverage or DEFAULT_COVERAGE
    if ensemble.coverage is None and conformal is None and kind == "quantiles":
        coverage = min(coverage, spec.widest_coverage)
    return msgspec.structs.replace(spec, coverage=coverage)


def fitted_for(ensemble: EnsembleConfig, members: Sequence[InspectedMember]) -> dict[str, Any]:
    """Return all that decides which answers an ensemble gives, as plain values by name."""
    planned = _main(ensemble, members)
    outputs = planned.combined[0].present
    return {
        "members": list(ensemble.members),
        "output": outputs[0].config.kind,
        "levels": list(outputs[0].config.levels),
        "augment": [
            one.config.model_dump(mode="json", include={"augment", "augment_rule"})
            for one in members
        ],
        "temperatures": [one.config.temperature for one in outputs],
        "rule": planned.rule,
        "weights": list(ensemble.weights or ()),
        "trim": ensemble.trim,
        "cascade": [list(stage) for stage in ensemble.cascade or ()],
        "confidence": list(ensemble.confidence or ()),
    }


def predictive_problems(
    name: str, ensemble: EnsembleConfig, members: Sequence[InspectedMember]
) -> Iterator[str]:
    """Yield why an ensemble can't have the coverage that is configured, a line each."""
    where = f"ensembles.{name}"
    kind = predictive_kind(ensemble, members)
    if ensemble.conformal is not None and kind is None:
        rule = _main(ensemble, members).rule
        yield f"{where}.conformal: is for classes and numbers, not for what {rule} answers"
        return
    try:
        spec = predictive_spec(name, ensemble, members)
    except ConfigError as error:
        yield from error.problems
        return
    if spec is None or (spec.conformal is None and spec.widest_coverage <= 0):
        if ensemble.coverage is not None:
            yield f"{where}.coverage: needs conformal, or members that give normal or quantiles"
    elif spec.conformal is not None:
        try:
            threshold_rank(spec.coverage, spec.conformal.rows)
        except TooFewRows as error:
            yield f"{where}.coverage: {error}"
    elif spec.coverage > spec.widest_coverage:
        yield (
            f"{where}.coverage: {spec.coverage:g} is more than the members' quantiles cover, "
            f"{spec.widest_coverage:g} (what is fitted by `ensembled calibrate` can be more)"
        )


def _read_conformal(
    name: str, ensemble: EnsembleConfig, members: Sequence[InspectedMember]
) -> ConformalSpec | None:
    if ensemble.conformal is None:
        return None
    where = f"ensembles.{name}.conformal: {ensemble.conformal}"
    try:
        document = msgspec.json.decode(ensemble.conformal.read_bytes(), type=ConformalDocument)
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{where}: is not by `ensembled calibrate --conformal`: {error}"
        ) from None
    now = fitted_for(ensemble, members)
    if changed := [key for key in now if document.fitted_for.get(key) != now[key]]:
        raise ConfigError(
            f"{where}: was fitted for another {changed[0]}: {document.fitted_for.get(changed[0])}, "
            f"now {now[changed[0]]}; run `ensembled calibrate --conformal` again"
        )
    if not _is_sound(document.conformal, _elements(ensemble, members)):
        raise ConfigError(f"{where}: its scores don't fit this ensemble, or are damaged")
    return document.conformal


def _elements(ensemble: EnsembleConfig, members: Sequence[InspectedMember]) -> int:
    """How many elements of the answer have scores of their own."""
    kind = predictive_kind(ensemble, members)
    shape = _main(ensemble, members).combined[0].present[0].prediction.shape
    if kind == "classes":
        return 1
    return math.prod(shape if kind == "values" else shape[:-1])


def _is_sound(spec: ConformalSpec, elements: int) -> bool:
    ranks = list(spec.ranks)
    return (
        len(spec.scores) == elements
        and bool(ranks)
        and ranks == sorted(set(ranks))
        and (ranks[0], ranks[-1]) == (1, spec.rows)
        and all(len(one) == len(ranks) and list(one) == sorted(one) for one in spec.scores)
    )
