"""Composes arenas, ensembles, instances and served models from inspected members and a matrix.

Runs in the supervisor before anything is started, and for each member by itself when it is
profiled; pure, except for reading label files. Members share an arena if their clients send the
same inputs, or if they are in one ensemble.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from ensembled_client.wire import CLASS_SCORES
from msgspec.structs import replace

from allocator.matrix import AllocationMatrix
from server.config import Config, EnsembleConfig
from server.engine.spec import ServedModel
from server.errors import ConfigError
from server.inference.spec import InputSpec, LengthClass, ModelSpec, StoredView
from server.members.agreement import agreement_problems
from server.members.augmentation import AUGMENTATION_VARIANCE, augmentation_of
from server.members.ensembles import (
    RuleFindings,
    StoredMember,
    compose_ensemble,
    compose_member,
)
from server.members.inspect import InspectedMember
from server.members.lengths import at_sizes, length_classes, padded_sizes
from server.members.predictive import predictive_spec
from server.members.variants import VARIANT
from server.versions import shown_names
from workers.runtime.arena import arena_bytes, bytes_per_row, group_blocks
from workers.runtime.spec import (
    ArenaSpec,
    Binding,
    InstanceSpec,
    Preparation,
    Scaling,
    TensorSpec,
)

__all__ = ["Composition", "RunningVariant", "compose"]

_MAX_SEGMENT_ROWS = 64
_MIN_SEGMENTS = 4
_MAX_ROWS = 1 << 15
#: Part of an arena's budget that is left to the alignment of its arrays.
_ALIGNMENT_BYTES = 64 << 10


class RunningVariant(NamedTuple):
    """The variant that runs in place of a member's own model on a device, and the device's kind."""

    name: str
    kind: str


@dataclass(frozen=True)
class Composition:
    """The specs to start the processes from; devices without instances are absent."""

    arenas: tuple[ArenaSpec, ...]
    instances: dict[str, tuple[InstanceSpec, ...]]
    models: tuple[ModelSpec, ...]

    @property
    def arena_bytes(self) -> int:
        """The size of all arenas together in the shared memory."""
        return self.arenas[-1].offset + arena_bytes(self.arenas[-1])


def compose(
    config: Config,
    members: Sequence[InspectedMember],
    matrix: AllocationMatrix,
    *,
    budget_bytes: int,
    findings: RuleFindings | None = None,
    largest_only: bool = False,
    variants: Mapping[tuple[str, str], RunningVariant] = MappingProxyType({}),
    first_arena: int = 0,
    first_instance: int = 0,
) -> Composition:
    """Compose the specs of a generation, whose arenas and instances are numbered from the first on.

    Members with variable dimensions have an arena, and an instance on each of their devices, per
    length class, the largest first; if `largest_only`, no others. Custom rules and meta-models that
    were not tried yield outputs like what they combine. `variants` says, by member and device, what
    runs in place of a member's own model.

    Raises:
        ConfigError: if members of an ensemble disagree, or the arenas don't fit the budget.
    """
    if problems := list(agreement_problems(config, {member.name: member for member in members})):
        raise ConfigError(problems)
    groups, largest = _group(config, members), _largest_batches(matrix)
    running: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for device, name, _ in matrix.instances():
        if found := variants.get((name, device)):
            running[name][found.kind] = found.name
    builders: list[_ArenaBuilder] = []
    models: list[ModelSpec] = []
    offset = 0
    for group in groups:
        classes = length_classes(group)[: 1 if largest_only else None]
        before = len(builders)
        for sizes in classes:
            builder = _ArenaBuilder(
                config,
                [at_sizes(member, sizes) for member in group],
                index=first_arena + len(builders),
                batch=max(largest[member.name] for member in group),
                most_rows=_MAX_ROWS // len(classes),
                budget_bytes=budget_bytes // (len(groups) * len(classes)),
                offset=offset,
                findings=findings or {},
                running=running,
            )
            offset += arena_bytes(builder.arena)
            builders.append(builder)
        models += _with_lengths(classes, builders[before:])
    instances: defaultdict[str, tuple[InstanceSpec, ...]] = defaultdict(tuple)
    numbers = itertools.count(first_instance)
    for device, name, batch in matrix.instances():
        own = [builder for builder in builders if name in builder.arena.members]
        instances[device] += tuple(
            builder.instance(name, batch, next(numbers), variants.get((name, device)))
            for builder in own
        )
    return Composition(
        arenas=tuple(builder.arena for builder in builders),
        instances=dict(instances),
        models=tuple(models),
    )


def _largest_batches(matrix: AllocationMatrix) -> dict[str, int]:
    """Return the largest batch of any instance of each member."""
    largest: dict[str, int] = {}
    for _, name, batch in matrix.instances():
        largest[name] = max(batch, largest.get(name, 0))
    return largest


def _with_lengths(
    classes: Sequence[Mapping[str, int]], builders: Sequence[_ArenaBuilder]
) -> Iterator[ModelSpec]:
    """Yield the models of a group's arenas, each once, with its length classes if there are any."""
    symbols = builders[0].arena.symbols
    bounds = [tuple(sizes[symbol] for symbol in symbols) for sizes in classes]
    for model, *smaller in zip(*(builder.models() for builder in builders), strict=True):
        if not symbols:
            yield model
            continue
        served = [model.served, *(one.served for one in smaller)]
        lengths = tuple(map(LengthClass, bounds, served))[::-1]
        yield replace(model, symbols=symbols, lengths=lengths)


def _group(config: Config, members: Sequence[InspectedMember]) -> list[list[InspectedMember]]:
    """Group members by arena: those of equal inputs, and the groups that an ensemble connects."""
    keys = {member.name: member.input_key for member in members}
    for ensemble in config.ensembles.values():
        first, *others = dict.fromkeys(keys[name] for name in ensemble.members)
        if others:
            keys = {name: first if key in others else key for name, key in keys.items()}
    groups: defaultdict[tuple[TensorSpec, ...], list[InspectedMember]] = defaultdict(list)
    for member in members:
        groups[keys[member.name]].append(member)
    return list(groups.values())


#: What an arena stores of an input: the tensor that is sent, or an image as it is prepared.
_Stored = TensorSpec | Preparation


class _ArenaBuilder:
    """Builds one arena, and the ensembles and instances of its members."""

    def __init__(
        self,
        config: Config,
        members: list[InspectedMember],
        *,
        index: int,
        batch: int,
        most_rows: int,
        budget_bytes: int,
        offset: int,
        findings: RuleFindings,
        running: Mapping[str, dict[str, str]],
    ) -> None:
        self._members = members
        self._running = running
        self._index = index
        self._config = config
        self._positions = {member.name: i for i, member in enumerate(members)}
        stored = {one.stored: one.view for member in members for one in member.inputs}
        self._views: dict[_Stored, int] = {one: view for view, one in enumerate(stored)}
        self._stored, predictions = _store(members)
        self._ensembles = [
            compose_ensemble(config, name, [self._stored[i] for i in self._indices(one)], findings)
            for name, one in config.ensembles.items()
            if one.members[0] in self._positions
        ]
        self._ensembles += map(compose_member, self._stored)
        ensembles = tuple(one.spec for one in self._ensembles)
        views = tuple(stored.values())
        blocks = group_blocks(predictions)
        row = bytes_per_row(views, blocks, ensembles)
        fitting = min((budget_bytes - _ALIGNMENT_BYTES) // row, most_rows)
        if any(view.symbols for view in views):  # long rows may have smaller batches
            batch = min(batch, max(1, fitting // 2))
        self._batch = batch
        segments, rows = _segments(fitting, batch, row, budget_bytes)
        self.arena = ArenaSpec(
            offset=offset,
            segments=segments,
            segment_rows=rows,
            views=views,
            members=tuple(self._positions),
            blocks=blocks,
            ensembles=ensembles,
            masks=self._masks(),
            index=index,
        )

    def _masks(self) -> tuple[int, ...]:
        """The views of masks, which clients may leave out."""
        inputs = [one for member in self._members for one in member.inputs]
        return tuple(sorted({self._views[one.stored] for one in inputs if one.mask is not None}))

    def _indices(self, config: EnsembleConfig) -> tuple[int, ...]:
        return tuple(self._positions[member] for member in config.members)

    def instance(
        self, name: str, batch: int, number: int, variant: RunningVariant | None
    ) -> InstanceSpec:
        """Return the spec of an instance of a member, or of a variant of it."""
        position = self._positions[name]
        member = self._members[position]
        if variant is not None:
            own = f"{name}{VARIANT}{variant.name}"
            member = next(one for one in member.variants if one.name == own)
        return InstanceSpec(
            arena=self._index,
            member=position,
            batch=min(batch, self._batch),
            source=member.source,
            signature=member.signature,
            bindings=self._bindings(member),
            outputs=tuple(
                output.spec(area)
                for output, area in zip(member.outputs, self._stored[position].areas, strict=True)
            ),
            augmentation=augmentation_of(
                self._config, member, self._stored[position].variance_area
            ),
            buckets=padded_sizes(member),
            id=number,
        )

    def _bindings(self, member: InspectedMember) -> tuple[Binding, ...]:
        return tuple(
            Binding(
                self._views[one.stored],
                Scaling(image.mean, image.std, image.layout) if (image := one.image) else None,
                one.pad,
            )
            for one in member.inputs
        )

    def models(self) -> Iterable[ModelSpec]:
        """Yield the arena's ensembles, and its members, as clients see them."""
        for i, composed in enumerate(self._ensembles):
            spec, labels = composed.spec, composed.fitting_labels()
            chosen = [self._members[member] for member in spec.members]
            names = shown_names([member.name for member in chosen])
            config = self._config.ensembles.get(spec.name)
            predictive = None if config is None else predictive_spec(spec.name, config, chosen)
            has_classes = spec.scores == CLASS_SCORES or (
                config is None and chosen[0].outputs[0].gives_classes
            )
            yield ModelSpec(
                served=ServedModel(
                    self._index,
                    i,
                    spec,
                    config.deadline_ms / 1000 if config else 0.0,
                ),
                inputs=self._inputs(chosen),
                members=names,
                labels=labels.pop(spec.output.name, ()),
                further_labels=labels,
                is_member=config is None,
                predictive=predictive,
                variants={
                    name: self._running[member.name]
                    for name, member in zip(names, chosen, strict=True)
                    if member.name in self._running
                },
                gives_classes=has_classes and len(spec.output.shape) == len(spec.predicted.shape),
            )

    def _inputs(self, members: Sequence[InspectedMember]) -> tuple[InputSpec, ...]:
        """What clients send for some members: the union of their inputs, by name."""
        masks: defaultdict[TensorSpec, Counter[_Stored]] = defaultdict(Counter)
        needed = set()
        for member in members:
            for one in member.inputs:
                masks[one.sent][one.stored] += 1 << self._positions[member.name]
                if one.mask is None:
                    needed.add(one.sent)
        return tuple(
            InputSpec(
                sent,
                tuple(
                    StoredView(
                        self._views[stored],
                        mask,
                        stored if isinstance(stored, Preparation) else None,
                    )
                    for stored, mask in views.items()
                ),
                is_optional=sent not in needed,
            )
            for sent, views in masks.items()
        )


def _store(members: Sequence[InspectedMember]) -> tuple[list[StoredMember], list[TensorSpec]]:
    """Return the members with the areas of their outputs, and the prediction of each area.

    The first output's area has the member's own number. The last ones are for the variance of
    members that augment.
    """
    areas = [[position] for position in range(len(members))]
    predictions = [member.prediction for member in members]
    for own, member in zip(areas, members, strict=True):
        for output in member.outputs[1:]:
            own.append(len(predictions))
            predictions.append(output.prediction)
    unified = _unify(predictions)
    stored = []
    for position, (member, own) in enumerate(zip(members, areas, strict=True)):
        variance_area = -1
        if member.config.augment is not None:
            variance_area = len(unified)
            unified.append(AUGMENTATION_VARIANCE)
        tensors = tuple(unified[area] for area in own)
        stored.append(StoredMember(member, position, tuple(own), tensors, variance_area))
    return stored, unified


def _unify(predictions: list[TensorSpec]) -> list[TensorSpec]:
    """Give predictions of one shape one datatype: FP64 as soon as one of them needs it."""
    wide = {tensor.shape for tensor in predictions if tensor.datatype == "FP64"}
    return [
        replace(tensor, datatype="FP64" if tensor.shape in wide else "FP32")
        for tensor in predictions
    ]


def _segments(rows: int, batch: int, row_bytes: int, budget_bytes: int) -> tuple[int, int]:
    """The number of segments and rows per segment: all that fit, segments of a batch or more."""
    if rows < 2 * batch:
        raise ConfigError(
            f"server.arena_bytes: {budget_bytes} bytes are too few for batches of {batch} rows of "
            f"{row_bytes} bytes each, give it at least {2 * batch * row_bytes + _ALIGNMENT_BYTES} "
            "per kind of input and length class"
        )
    size = max(batch, min(_MAX_SEGMENT_ROWS, rows // _MIN_SEGMENTS))
    return rows // size, size
