"""Which outputs of its members an ensemble combines, by which rules, and whether these fit them.

Used in the supervisor before anything is started; pure. An ensemble's section and its inspected
members flow in, planned rules and a line per problem flow out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from server.config import NO_RULE, EnsembleConfig
from server.errors import did_you_mean
from server.members.classes import class_problems
from server.members.inspect import InspectedMember
from server.members.outputs import MemberOutput
from workers.rules import TRAITS, is_custom
from workers.rules.catalogue import CUSTOM, STACK

__all__ = ["PlannedRule", "SharedOutput", "combining_problems", "planned_rules", "shared_outputs"]

_NEED_CLASSES = ("classes", "probabilities")


@dataclass(frozen=True)
class SharedOutput:
    """The outputs of an ensemble's members with one name.

    Attributes:
        name: for clients.
        outputs: in the order of the members; None for one that has no such output.
    """

    name: str
    outputs: tuple[MemberOutput | None, ...]

    @property
    def present(self) -> tuple[MemberOutput, ...]:
        """Those that there are; at least one."""
        return tuple(output for output in self.outputs if output is not None)

    @property
    def is_complete(self) -> bool:
        """Whether all members have it."""
        return None not in self.outputs


@dataclass(frozen=True)
class PlannedRule:
    """A rule of an ensemble, and what it combines: one output, or several together."""

    rule: str
    combined: tuple[SharedOutput, ...]


def shared_outputs(members: Sequence[InspectedMember]) -> dict[str, SharedOutput]:
    """Return the outputs of members by name, in the order of their first appearance."""
    named = [{output.name: output for output in member.outputs} for member in members]
    names = dict.fromkeys(name for outputs in named for name in outputs)
    return {
        name: SharedOutput(name, tuple(outputs.get(name) for outputs in named)) for name in names
    }


def planned_rules(
    ensemble: EnsembleConfig, shared: Mapping[str, SharedOutput]
) -> tuple[PlannedRule, ...]:
    """Return the rules that combine the outputs of an ensemble's members, the main one first.

    `combining_problems` must find nothing wrong with it.
    """
    if not isinstance(ensemble.rule, str):
        return tuple(
            _planned(ensemble.rule[name], name, shared)
            for name in shared
            if ensemble.rule.get(name, NO_RULE) != NO_RULE
        )
    first, *others = shared
    planned = [_planned(ensemble.rule, first, shared)]
    if ensemble.rule != STACK and not is_custom(ensemble.rule) and not _takes(ensemble.rule):
        further = [_planned(ensemble.rule, name, shared) for name in others]
        planned += [one for one in further if not any(_problems("", one, ()))]
    return tuple(planned)


def combining_problems(
    name: str,
    ensemble: EnsembleConfig,
    members: Sequence[InspectedMember],
    own_labels: tuple[str, ...],
) -> Iterator[str]:
    """Yield why an ensemble's rules can't combine its members' outputs, a line each."""
    shared = shared_outputs(members)
    for rule in ensemble.rules:
        for output in _takes(rule):
            if output not in shared:
                yield (
                    f"ensembles.{name}.rule: {rule} combines the outputs "
                    f"{', '.join(_takes(rule))} of the members, they have {', '.join(shared)} "
                    "(a member's outputs have names of their own for clients)"
                )
                return
    for output in () if isinstance(ensemble.rule, str) else ensemble.rule:
        if output not in shared:
            hint = did_you_mean(output, shared)
            yield (
                f"ensembles.{name}.rule: no member has an output {output!r}{hint}: they have "
                f"{', '.join(shared)}"
            )
            return
    planned = planned_rules(ensemble, shared)
    for i, one in enumerate(planned):
        yield from _problems(name, one, () if i else own_labels)
    main = planned[0].combined[0].present[0]
    if ensemble.cascade and not (main.gives_classes and len(main.prediction.shape) == 1):
        yield f"ensembles.{name}.cascade: needs members that give a probability per class"


def _takes(rule: str) -> tuple[str, ...]:
    return TRAITS.get(rule, CUSTOM).takes


def _planned(rule: str, name: str, shared: Mapping[str, SharedOutput]) -> PlannedRule:
    return PlannedRule(rule, tuple(shared[one] for one in _takes(rule) or (name,)))


def _problems(name: str, planned: PlannedRule, own: tuple[str, ...]) -> Iterator[str]:
    for one in planned.combined:
        if not one.is_complete:
            has = [output.member for output in one.present]
            yield (
                f"ensembles.{name}: members disagree on their outputs: only {', '.join(has)} has "
                f"{one.name!r} (members.X.outputs.Y.name says what clients call an output)"
            )
    if not all(one.is_complete for one in planned.combined):
        return
    if _takes(planned.rule):
        yield from _box_problems(name, planned)
        return
    (one,) = planned.combined
    for other in one.present[1:]:
        yield from _kind_problems(name, one.present[0], other)
    yield from class_problems(name, one.present, own)
    yield from _rule_problems(name, planned.rule, one.present[0])


def _box_problems(name: str, planned: PlannedRule) -> Iterator[str]:
    """Yield which members give no boxes with a score and a class each."""
    for outputs in zip(*(one.present for one in planned.combined), strict=True):
        shapes = [output.prediction.stored_shape for output in outputs]
        count = shapes[1][:1]
        kinds = {output.config.kind for output in outputs}
        if shapes != [(*count, 4), count, count] or not count or kinds != {"values"}:
            given = ", ".join(
                f"{output.name} {list(shape)} ({output.config.kind})"
                for output, shape in zip(outputs, shapes, strict=True)
            )
            yield (
                f"ensembles.{name}.rule: {planned.rule} needs boxes [k, 4], scores [k] and classes "
                f"[k] that are values, {outputs[0].member!r} gives {given} (members.X.outputs.Y."
                "max_shape bounds a number of boxes that varies)"
            )


def _kind_problems(name: str, first: MemberOutput, other: MemberOutput) -> Iterator[str]:
    kinds = first.config.kind, other.config.kind
    if kinds[0] != kinds[1] and (first.gives_numbers or other.gives_numbers):
        yield (
            f"ensembles.{name}: members disagree on what their output means: {first.member!r} "
            f"gives {kinds[0]}, {other.member!r} gives {kinds[1]}"
        )
    elif first.config.levels != other.config.levels:
        yield (
            f"ensembles.{name}: members disagree on their quantiles: {first.member!r} gives "
            f"{list(first.config.levels)}, {other.member!r} gives {list(other.config.levels)}"
        )


def _rule_problems(name: str, rule: str, output: MemberOutput) -> Iterator[str]:
    needs, kind = TRAITS.get(rule, CUSTOM).needs, output.config.kind
    where, is_built_in = f"ensembles.{name}.rule", rule in TRAITS
    if needs in _NEED_CLASSES and not output.prediction.shape:
        yield f"{where}: {rule} needs an output per class"
    if needs == "probabilities" and kind == "values":
        yield f"{where}: {rule} needs members whose output is logits or probabilities, not values"
    if needs == "numbers" and -1 in output.prediction.shape:
        yield f"{where}: {rule} needs outputs of a fixed shape"
    if needs == "numbers" and kind not in {"normal", "values"}:
        yield f"{where}: {rule} needs members whose output is normal or values, not {kind}"
    elif kind == "normal" and is_built_in and rule != STACK and needs != "numbers":
        yield f"{where}: members that give a mean and a variance need mixture, not {rule}"
    elif kind == "quantiles" and is_built_in and needs != "anything":
        yield f"{where}: {rule} is for classes, quantiles need mean, weighted_mean or median"
