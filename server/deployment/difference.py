"""What is different between two deployments, in lines for people.

Runs in the supervisor before a change; pure. Two plans flow in, lines flow out: none if the two
serve the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from server.config import EnsembleConfig
from server.config.base import Section
from server.deployment.plan import DeploymentPlan
from server.members.inspect import InspectedMember
from server.rollout.spec import RolloutSpec
from workers.runtime.spec import FileStamp, InstanceSpec, RuleSpec

__all__ = ["describe_change"]

_Value = TypeVar("_Value")
#: Values longer than this are not repeated.
_MOST_CHARACTERS = 60


def describe_change(before: DeploymentPlan, after: DeploymentPlan) -> list[str]:
    """Return what changes from one plan to another, a line each."""
    return [
        *_member_lines(before, after),
        *_ensemble_lines(before, after),
        *_rollout_lines(before, after),
        *_device_lines(before, after),
        *_matrix_lines(before, after),
    ]


def _member_lines(before: DeploymentPlan, after: DeploymentPlan) -> Iterator[str]:
    old = {member.name: member for member in before.models.members}
    new = {member.name: member for member in after.models.members}
    old_code, new_code = _functions(before), _functions(after)
    for name, former, now in _paired(old, new):
        if former is None:
            origin = new[name].source.origin
            yield f"member {name}: new{f' ({origin})' if origin else ''}"
        elif now is None:
            yield f"member {name}: removed"
        else:
            changes = [*_changes(former, now)]
            if names := _changed_files(old_code.get(name, ()), new_code.get(name, ())):
                changes.append(f"functions of its augmentation in {names}")
            if changes:
                yield f"member {name}: {'; '.join(changes)}"


def _changes(former: InspectedMember, now: InspectedMember) -> Iterator[str]:
    keys = [*_section_changes(former.config, now.config)]
    yield from keys
    if files := _changed_files(former.source.stamps, now.source.stamps):
        if former.source.origin == now.source.origin:
            yield f"{files} changed"
        elif not keys:  # it was built, or fetched, anew
            yield "its model"
    variants = {variant.name: variant for variant in former.variants}
    for variant in now.variants:
        before = variants.get(variant.name, variant).source
        if files := _changed_files(before.stamps, variant.source.stamps):
            yield f"{files} changed"
    if former.output_labels != now.output_labels and former.config.labels == now.config.labels:
        yield "the labels in its files"


def _ensemble_lines(before: DeploymentPlan, after: DeploymentPlan) -> Iterator[str]:
    old_rules, new_rules = _rules(before), _rules(after)
    labels = [
        {model.served.spec.name: (model.labels, model.further_labels) for model in models}
        for models in (before.composition.models, after.composition.models)
    ]
    for name, former, now in _paired(before.config.ensembles, after.config.ensembles):
        if former is None:
            yield f"ensemble {name}: new ({_members(after.config.ensembles[name])})"
        elif now is None:
            yield f"ensemble {name}: removed"
        else:
            changes = [*_section_changes(former, now)]
            for one, other in zip(old_rules[name], new_rules[name], strict=False):
                if one.rule == other.rule:
                    changes += _rule_changes(one, other)
            if not changes and labels[0][name] != labels[1][name]:
                changes.append("labels")
            if changes:
                yield f"ensemble {name}: {'; '.join(changes)}"


def _members(ensemble: EnsembleConfig) -> str:
    return f"{', '.join(ensemble.members)} by {_shown(ensemble.rule)}"


def _rule_changes(former: RuleSpec, now: RuleSpec) -> Iterator[str]:
    if files := _changed_files(former.stamps, now.stamps):
        yield f"its rule in {files}"
    old, new = former.meta, now.meta
    stamps = () if old is None or new is None or old.path != new.path else (old.stamps, new.stamps)
    if stamps and (files := _changed_files(*stamps)):
        yield f"{files} changed"


def _section_changes(former: Section, now: Section) -> Iterator[str]:
    """Yield the keys of a section whose values differ, with the values if they are short."""
    for key in type(now).model_fields:
        old, new = getattr(former, key), getattr(now, key)
        if old != new and key != "rollout":  # which has a line of its own
            texts = [_shown(old), _shown(new)]
            short = all(len(text) <= _MOST_CHARACTERS for text in texts)
            yield f"{key} {texts[0]} -> {texts[1]}" if short else f"{key} has changed"


def _shown(value: Any) -> str:
    """A value of the configuration as people write it."""
    if isinstance(value, Section):
        given = value.model_dump(exclude_unset=True, mode="json", by_alias=True)
        return str(given)
    if isinstance(value, Path):
        return value.name
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or "none"
    return "none" if value is None else str(value)


def _changed_files(former: Sequence[FileStamp], now: Sequence[FileStamp]) -> str:
    known = {stamp.path: stamp for stamp in former}
    changed = [Path(stamp.path).name for stamp in now if known.pop(stamp.path, None) != stamp]
    return ", ".join([*changed, *(f"{Path(path).name} (gone)" for path in known)])


def _rollout_lines(before: DeploymentPlan, after: DeploymentPlan) -> Iterator[str]:
    old = {rollout.model: rollout for rollout in before.rollouts}
    new = {rollout.model: rollout for rollout in after.rollouts}
    for name, former, now in _paired(old, new):
        if now is None:
            yield f"roll-out of {name}: over"
        elif former is None:
            yield f"roll-out of {name}: new ({_rollout(now)})"
        elif former != now:
            texts = _rollout(former), _rollout(now)
            changes = " -> ".join(texts) if texts[0] != texts[1] else "its limits"
            yield f"roll-out of {name}: {changes}"


def _rollout(spec: RolloutSpec) -> str:
    return f"version {spec.version} as {spec.mode} of {spec.percent:g}%"


def _device_lines(before: DeploymentPlan, after: DeploymentPlan) -> Iterator[str]:
    old = {device.name: device for device in before.all_devices}
    new = {device.name: device for device in after.all_devices}
    for name, former, now in _paired(old, new):
        if former is None or now is None:
            yield f"device {name}: {'new' if former is None else 'removed'}"
        elif former != now:
            yield f"device {name}: its cores or its memory"


def _matrix_lines(before: DeploymentPlan, after: DeploymentPlan) -> Iterator[str]:
    """Yield what changes on each device: instances that come, go, or change their batch size."""
    old = {(device, member): batch for device, member, batch in before.matrix.instances()}
    new = {(device, member): batch for device, member, batch in after.matrix.instances()}
    devices = dict.fromkeys(device for device, _ in [*old, *new])
    for device in devices:
        members = dict.fromkeys(member for name, member in [*old, *new] if name == device)
        changes = []
        for member in members:
            was, will = old.get((device, member), 0), new.get((device, member), 0)
            if was == will:
                continue
            if not was or not will:
                changes.append(f"{'+' if will else '-'} {member} x{will or was}")
            else:
                changes.append(f"{member} x{was} -> x{will}")
        if changes:
            yield f"{device}: {', '.join(changes)}"


def _functions(plan: DeploymentPlan) -> dict[str, tuple[FileStamp, ...]]:
    """By member the stamps of its augmentation's functions."""
    instances: list[InstanceSpec] = [
        one for listed in plan.composition.instances.values() for one in listed
    ]
    return {one.source.member: one.augmentation.stamps for one in instances if one.augmentation}


def _rules(plan: DeploymentPlan) -> dict[str, tuple[RuleSpec, ...]]:
    """By ensemble its rules."""
    return {
        ensemble.name: ensemble.rules
        for arena in plan.composition.arenas
        for ensemble in arena.ensembles
    }


def _paired(
    before: Mapping[str, _Value], after: Mapping[str, _Value]
) -> Iterator[tuple[str, _Value | None, _Value | None]]:
    """Yield each name with what was and what will be there; what is new comes first."""
    for name in [*(name for name in after if name not in before), *before]:
        yield name, before.get(name), after.get(name)
