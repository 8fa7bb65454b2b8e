"""Makes the specs of ensembles: what their members predict, and the rules that combine it.

Used in the supervisor before anything is started; pure, except for reading label files. Sections,
inspected members and their prediction areas flow in, specs for the combiner flow out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ensembled_client.wire import CLASS_SCORES
from msgspec.structs import replace

from server.config import Config, EnsembleConfig
from server.errors import ConfigError
from server.members.augmentation import AUGMENTATION_VARIANCE
from server.members.classes import MatchedClasses, ensemble_labels, match_classes
from server.members.combining import PlannedRule, SharedOutput, planned_rules, shared_outputs
from server.members.inspect import InspectedMember
from server.members.outputs import MemberOutput
from workers.rules import TRAITS, is_custom
from workers.rules.catalogue import CUSTOM, Combined
from workers.runtime.spec import (
    COMBINED,
    VALUE_SCORES,
    EnsembleSpec,
    FileStamp,
    ModelSource,
    PredictionSpec,
    RuleSpec,
    TensorSpec,
)

__all__ = [
    "ComposedEnsemble",
    "RuleFinding",
    "RuleFindings",
    "StoredMember",
    "combined_tensor",
    "compose_ensemble",
    "compose_member",
]


@dataclass(frozen=True)
class RuleFinding:
    """What trying a rule has shown: its outputs for one row, and the meta-model of `stack`.

    `stamps` are those of a custom rule's files.
    """

    outputs: tuple[TensorSpec, ...]
    meta: ModelSource | None = None
    stamps: tuple[FileStamp, ...] = ()


#: By the names of the ensemble and of the output that is combined.
RuleFindings = Mapping[tuple[str, str], RuleFinding]


@dataclass(frozen=True)
class StoredMember:
    """A member in an arena: its number, and per output its area and how that is stored.

    `variance_area` is for the variance of its augmentation, -1 without one.
    """

    inspected: InspectedMember
    position: int
    areas: tuple[int, ...]
    stored: tuple[TensorSpec, ...]
    variance_area: int = -1

    def find(self, output: MemberOutput) -> int:
        """Return the number of one of its outputs."""
        return [one.name for one in self.inspected.outputs].index(output.name)


@dataclass(frozen=True)
class ComposedEnsemble:
    """An ensemble's spec, and the labels of its outputs' classes, by output."""

    spec: EnsembleSpec
    labels: dict[str, tuple[str, ...]]

    def fitting_labels(self) -> dict[str, tuple[str, ...]]:
        """Return the labels without those of rules that answer with something else than classes."""
        axes = {one.tensor.name: one.class_axis for one in self.spec.predictions}
        yielded = {one.name: one.shape for one in self.spec.outputs}
        return {
            name: labels
            for name, labels in self.labels.items()
            for shape in [yielded.get(name)]
            if labels and (shape is None or shape[axes[name] :][:1] == (len(labels),))
        }


def compose_member(member: StoredMember) -> ComposedEnsemble:
    """Return a member as an ensemble of one, with all its outputs."""
    outputs = member.inspected.outputs
    spec = EnsembleSpec(
        name=member.inspected.name,
        members=(member.position,),
        quorum=1,
        predictions=(
            *(
                PredictionSpec(tensor, (area,), class_axis=output.class_axis)
                for tensor, area, output in zip(member.stored, member.areas, outputs, strict=True)
            ),
            *_variances([member]),
        ),
        rules=tuple(RuleSpec("mean", (i,), (tensor,)) for i, tensor in enumerate(member.stored)),
    )
    return ComposedEnsemble(spec, {one.name: one.labels for one in outputs})


def compose_ensemble(
    config: Config, name: str, members: Sequence[StoredMember], findings: RuleFindings
) -> ComposedEnsemble:
    """Return an ensemble of an arena's members.

    Custom rules and meta-models without a finding yield what they combine.

    Raises:
        ConfigError: if its label file can't be read, or two outputs have one name.
    """
    section = config.ensembles[name]
    shared = shared_outputs([member.inspected for member in members])
    planned = planned_rules(section, shared)
    composer = _Composer(config, name, members, findings)
    rules = tuple(composer.rule(one, is_main=not i) for i, one in enumerate(planned))
    used = {one.name for rule in planned for one in rule.combined}
    for one in shared.values():
        if one.name not in used:
            composer.add_uncombined(one)
    _check_names(name, rules)
    main = planned[0].combined[0].present[0]
    spec = EnsembleSpec(
        name=name,
        members=tuple(member.position for member in members),
        quorum=section.required_members,
        predictions=(*composer.predictions, *_variances(members)),
        rules=rules,
        scores=() if TRAITS.get(rules[0].rule, CUSTOM).takes else _scores(main),
        stages=_stages(section, members),
        thresholds=section.confidence or (),
    )
    return ComposedEnsemble(spec, composer.labels)


def _variances(members: Sequence[StoredMember]) -> Iterator[PredictionSpec]:
    """Yield the variances of members that augment, which nothing combines."""
    areas = tuple(member.variance_area for member in members)
    if max(areas) >= 0:
        yield PredictionSpec(AUGMENTATION_VARIANCE, areas)


def _scores(main: MemberOutput) -> tuple[str, ...]:
    """Return the uncertainty scores of an ensemble of outputs like this one."""
    if main.config.kind == "normal":
        return ()  # the parts of the variance are outputs of their own
    return CLASS_SCORES if main.gives_classes else VALUE_SCORES


def _check_names(name: str, rules: Sequence[RuleSpec]) -> None:
    """Raise ConfigError if two outputs of rules have one name."""
    names = [output.name for rule in rules for output in rule.outputs]
    for output, count in Counter(names).items():
        if count > 1:
            raise ConfigError(f"ensembles.{name}.rule: two rules yield an output {output!r}")
    if COMBINED in names[1:]:
        raise ConfigError(f"ensembles.{name}.rule: only the main output can be called {COMBINED!r}")


class _Composer:
    """Collects an ensemble's predictions while its rules are made."""

    def __init__(
        self, config: Config, name: str, members: Sequence[StoredMember], findings: RuleFindings
    ) -> None:
        self._name, self._section = name, config.ensembles[name]
        self._directory = str(config.directory.absolute())
        self._members = members
        self._findings = findings
        self.predictions: list[PredictionSpec] = []
        self.labels: dict[str, tuple[str, ...]] = {}

    def rule(self, planned: PlannedRule, *, is_main: bool) -> RuleSpec:
        """Add what a rule combines, and return its spec."""
        rule, section = planned.rule, self._section
        own_labels = ensemble_labels(self._name, section) if is_main else ()
        first = len(self.predictions)
        traits = TRAITS.get(rule, CUSTOM)
        if traits.takes:
            taken = [self._padded(one) for one in planned.combined]
        else:
            taken = [self._combined(one, own_labels) for one in planned.combined]
        options = section.options(rule)
        finding = self._findings.get((self._name, planned.combined[0].name))
        found = None if finding is None else finding.outputs
        return RuleSpec(
            rule=rule,
            inputs=tuple(range(first, len(self.predictions))),
            outputs=found or traits.yields(taken, options),
            weights=(section.weights or ()) if traits.weights != "none" else (),
            options=options,
            meta=None if finding is None else finding.meta,
            directory=self._directory if is_custom(rule) else "",
            stamps=() if finding is None else finding.stamps,
        )

    def add_uncombined(self, shared: SharedOutput) -> None:
        """Add an output that is not combined: members may have it in different shapes."""
        alike: defaultdict[TensorSpec, dict[int, int]] = defaultdict(dict)
        for place, tensor, area in self._stored(shared):
            alike[tensor][place] = area
        for tensor, areas in alike.items():
            everywhere = tuple(areas.get(place, -1) for place in range(len(self._members)))
            axis = shared.present[0].class_axis
            self.predictions.append(PredictionSpec(tensor, everywhere, class_axis=axis))
        labels = {output.labels for output in shared.present}
        self.labels[shared.name] = labels.pop() if len(labels) == 1 else ()

    def _combined(self, shared: SharedOutput, own_labels: tuple[str, ...]) -> Combined:
        classes = match_classes(shared.present, own_labels)
        stored = list(self._stored(shared))
        axis = shared.present[0].class_axis
        tensor = combined_tensor([one for _, one, _ in stored], classes, axis)
        areas = tuple(area for _, _, area in stored)
        self.predictions.append(PredictionSpec(tensor, areas, classes.columns, axis))
        self.labels[shared.name] = classes.labels
        return Combined(tensor, shared.present[0].config.kind)

    def _padded(self, shared: SharedOutput) -> Combined:
        """Add boxes, or their scores or classes: members with fewer ones get zeros behind them."""
        stored = list(self._stored(shared))
        tensors = [one for _, one, _ in stored]
        sizes = [one.stored_shape[0] for one in tensors]
        wide = any(one.datatype == "FP64" for one in tensors)
        shape = (max(sizes), *tensors[0].stored_shape[1:])
        tensor = TensorSpec(shared.name, "FP64" if wide else "FP32", shape)
        columns = tuple((*range(size), *(-1,) * (max(sizes) - size)) for size in sizes)
        alike = len(set(tensors)) == 1
        areas = tuple(area for _, _, area in stored)
        self.predictions.append(
            PredictionSpec(tensor, areas, () if alike else columns, -len(shape))
        )
        self.labels[shared.name] = ()
        return Combined(tensor, shared.present[0].config.kind)

    def _stored(self, shared: SharedOutput) -> Iterator[tuple[int, TensorSpec, int]]:
        """Yield each member that has an output: its place, how it is stored, and its area."""
        for place, (member, output) in enumerate(zip(self._members, shared.outputs, strict=True)):
            if output is not None:
                number = member.find(output)
                yield place, member.stored[number], member.areas[number]


def combined_tensor(
    stored: Sequence[TensorSpec], classes: MatchedClasses, class_axis: int
) -> TensorSpec:
    """Return a member's prediction of one row in the ensemble's classes."""
    first = stored[0]
    if not classes.columns:
        return first
    shape = list(first.shape)
    shape[class_axis] = len(classes.labels)
    wide = any(tensor.datatype == "FP64" for tensor in stored)
    return replace(first, datatype="FP64" if wide else "FP32", shape=tuple(shape))


def _stages(section: EnsembleConfig, members: Sequence[StoredMember]) -> tuple[int, ...]:
    """Return per stage of a cascade the mask of the members that have been started by then."""
    positions = {member.inspected.name: member.position for member in members}
    stages: list[int] = []
    for stage in section.cascade or ():
        mask = sum(1 << positions[member] for member in stage)
        stages.append(mask | (stages[-1] if stages else 0))
    return tuple(stages)
