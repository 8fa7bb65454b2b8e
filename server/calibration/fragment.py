"""What was fitted as YAML, to be put into the configuration by hand.

Runs in the process of the command line; pure. It is a fragment and not a whole configuration,
because one that is read and written again loses its comments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from server.calibration.fitting import Fit, has_temperature
from server.calibration.subject import Subject

__all__ = ["fragment"]

_WIDTH = 1_000_000


def fragment(subject: Subject, fit: Fit, about: str) -> str:
    """Return the keys that change, with their values; valid YAML.

    Args:
        subject: the ensemble.
        fit: what was fitted.
        about: where it comes from, one line.
    """
    return "\n".join([f"# {about}", *_members(subject, fit), *_ensemble(subject, fit)]) + "\n"


def _members(subject: Subject, fit: Fit) -> Iterator[str]:
    yield "members:"
    for member, temperature in zip(subject.members, fit.temperatures, strict=True):
        if has_temperature(member):
            yield f"  {_flow(member.name)}:"
            yield f"    temperature: {_flow(temperature)}"
        else:
            yield f"  # {member.name} predicts a class: it has no temperature"


def _ensemble(subject: Subject, fit: Fit) -> Iterator[str]:
    names = [member.name for member in subject.members]
    yield "ensembles:"
    yield f"  {_flow(subject.name)}:"
    if fit.is_new_rule and fit.rule.weights is not None:
        yield "    rule: weighted_mean"
        yield f"    weights: {_flow(dict(zip(names, fit.rule.weights, strict=True)))}"
    else:
        yield f"    rule: {_flow(subject.config.rule)}"
        yield "    # Weights for `rule: weighted_mean`, by --weights fitted or selected:"
        yield f"    # fitted: {_flow(dict(zip(names, fit.weights, strict=True)))}"
        yield f"    # selected: {_flow(dict(zip(names, fit.selection, strict=True)))}"
    if fit.confidence is not None:
        yield f"    cascade: {_flow([list(stage) for stage in subject.stages])}"
        yield f"    confidence: {_flow(list(fit.confidence))}"


def _flow(value: str | float | list[Any] | Mapping[str, Any]) -> str:
    """A value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=_WIDTH, sort_keys=False)
    return text.removesuffix("...\n").strip()
