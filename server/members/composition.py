"""Composes arenas, ensembles, instances and served models from inspected members and a matrix.

Runs in the supervisor before anything is started, and for each member by itself when it is
profiled; pure. Members share an arena if their clients send the same inputs, or if they are in one
ensemble.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from ensembled_client.wire import CLASS_SCORES

from allocator.matrix import AllocationMatrix
from server.config import Config, EnsembleConfig
from server.engine.spec import ServedModel
from server.errors import ConfigError
from server.inference.spec import InputSpec, LengthClass, ModelSpec, StoredView
from server.members.agreement import agreement_problems, ensemble_labels, match_classes
from server.members.augmentation import AUGMENTATION_VARIANCE, augmentation_of
from server.members.inspect import IMAGE, InspectedMember
from server.members.lengths import at_sizes, length_classes, padded_sizes
from server.members.predictive import combined, predictive_spec
from server.members.rules import MetaModel, meta_output
from workers.combiner.scores import VALUE_SCORES
from workers.rules import is_custom
from workers.rules.builtin import DEFAULT_TRIM
from workers.runtime.arena import arena_bytes, bytes_per_row, group_blocks
from workers.runtime.spec import (
    ArenaSpec,
    Binding,
    EnsembleSpec,
    InstanceSpec,
    Preparation,
    Scaling,
    TensorSpec,
)

__all__ = ["Composition", "compose"]

_MAX_SEGMENT_ROWS = 64
_MIN_SEGMENTS = 4
_MAX_ROWS = 1 << 15
#: Part of an arena's budget that is left to the alignment of its arrays.
_ALIGNMENT_BYTES = 64 << 10


@dataclass(frozen=True)
class Composition:
    """The specs to start the processes from; devices without instances are absent."""

    arenas: tuple[ArenaSpec, ...]
    instances: dict[str, tuple[InstanceSpec, ...]]
    models: tuple[ModelSpec, ...]


def compose(
    config: Config,
    members: Sequence[InspectedMember],
    matrix: AllocationMatrix,
    *,
    budget_bytes: int,
    offset: int,
    metas: Mapping[str, MetaModel] | None = None,
    largest_only: bool = False,
) -> Composition:
    """Compose the specs of a server, whose arenas begin at an offset of the shared memory.

    Members with variable dimensions have an arena, and an instance on each of their devices, per
    length class, the largest first; if `largest_only`, no others. Without its meta-model, a
    stacking ensemble's output has the shape of its members' predictions.

    Raises:
        ConfigError: if members of an ensemble disagree, or the arenas don't fit the budget.
    """
    if problems := list(agreement_problems(config, {member.name: member for member in members})):
        raise ConfigError(problems)
    groups = _group(config, members)
    largest: dict[str, int] = {}
    for _, name, batch in matrix.instances():
        largest[name] = max(batch, largest.get(name, 0))
    builders: list[_ArenaBuilder] = []
    models: list[ModelSpec] = []
    for group in groups:
        classes = length_classes(group)[: 1 if largest_only else None]
        family = len(builders)
        for sizes in classes:
            builder = _ArenaBuilder(
                config,
                [at_sizes(member, sizes) for member in group],
                index=len(builders),
                family=family,
                batch=max(largest[member.name] for member in group),
                most_rows=_MAX_ROWS // len(classes),
                budget_bytes=budget_bytes // (len(groups) * len(classes)),
                offset=offset,
                metas=metas or {},
            )
            offset += arena_bytes(builder.arena)
            builders.append(builder)
        models += _with_lengths(classes, builders[family:])
    instances: defaultdict[str, tuple[InstanceSpec, ...]] = defaultdict(tuple)
    for device, name, batch in matrix.instances():
        own = [builder for builder in builders if name in builder.arena.members]
        instances[device] += tuple(builder.instance(name, batch) for builder in own)
    return Composition(
        arenas=tuple(builder.arena for builder in builders),
        instances=dict(instances),
        models=tuple(models),
    )


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
        yield msgspec.structs.replace(model, symbols=symbols, lengths=lengths)


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
        family: int,
        batch: int,
        most_rows: int,
        budget_bytes: int,
        offset: int,
        metas: Mapping[str, MetaModel],
    ) -> None:
        self._members = members
        self._metas = metas
        self._index = index
        self._family = family
        self._config = config
        self._positions = {member.name: i for i, member in enumerate(members)}
        stored = dict.fromkeys(one.stored for member in members for one in member.inputs)
        self._views: dict[_Stored, int] = {one: view for view, one in enumerate(stored)}
        self._areas, self._variances, predictions = _areas(members)
        predictions = _unify(predictions)
        ensembles = []
        self._classes = {}
        for name, one in config.ensembles.items():
            if one.members[0] in self._positions:
                chosen = [members[i] for i in self._indices(one)]
                self._classes[name] = match_classes(chosen, ensemble_labels(name, one))
                ensembles.append(self._ensemble(name, one, predictions))
        ensembles += [
            EnsembleSpec(member.name, (i,), "mean", (), 1, predictions[i])
            for i, member in enumerate(members)
        ]
        views = tuple(_view(stored) for stored in self._views)
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
            ensembles=tuple(ensembles),
            masks=tuple(
                sorted(
                    {
                        self._views[one.stored]
                        for member in members
                        for one in member.inputs
                        if one.mask is not None
                    }
                )
            ),
        )

    def _ensemble(
        self, name: str, config: EnsembleConfig, predictions: list[TensorSpec]
    ) -> EnsembleSpec:
        members, classes = self._indices(config), self._classes[name]
        output = predictions[members[0]]
        if classes.columns:
            wide = any(predictions[member].datatype == "FP64" for member in members)
            output = TensorSpec("output", "FP64" if wide else "FP32", (len(classes.labels),))
        meta = self._metas.get(name)
        first = self._members[members[0]]
        answer = combined(config, first, output) if meta is None else meta_output(meta.signature)
        return EnsembleSpec(
            name=name,
            members=members,
            rule=config.rule,
            weights=config.weights or (),
            quorum=config.required_members,
            output=answer,
            scores=_scores(first),
            columns=classes.columns,
            stages=self._stages(config),
            thresholds=config.confidence or (),
            trim=config.trim or DEFAULT_TRIM,
            meta=None if meta is None else meta.source,
            directory=str(self._config.directory.absolute()) if is_custom(config.rule) else "",
            prediction=None if answer == output else output,
        )

    def _stages(self, config: EnsembleConfig) -> tuple[int, ...]:
        """Per stage of a cascade, the mask of the members that have been started by then."""
        stages: list[int] = []
        for stage in config.cascade or ():
            mask = sum(1 << self._positions[member] for member in stage)
            stages.append(mask | (stages[-1] if stages else 0))
        return tuple(stages)

    def _indices(self, config: EnsembleConfig) -> tuple[int, ...]:
        return tuple(self._positions[member] for member in config.members)

    def instance(self, name: str, batch: int) -> InstanceSpec:
        """Return the spec of a member's instance."""
        position = self._positions[name]
        member = self._members[position]
        return InstanceSpec(
            arena=self._index,
            member=position,
            batch=min(batch, self._batch),
            source=member.source,
            signature=member.signature,
            bindings=self._bindings(member),
            outputs=tuple(
                output.spec(area)
                for output, area in zip(member.outputs, self._areas[position], strict=True)
            ),
            augmentation=augmentation_of(self._config, member, self._variances.get(name, -1)),
            buckets=padded_sizes(member),
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
        for i, spec in enumerate(self.arena.ensembles):
            chosen = [self._members[member] for member in spec.members]
            classes = self._classes.get(spec.name)
            labels = chosen[0].labels if classes is None else classes.labels
            config = self._config.ensembles.get(spec.name)
            predictive = None if config is None else predictive_spec(spec.name, config, chosen)
            yield ModelSpec(
                served=ServedModel(
                    self._index,
                    i,
                    spec,
                    config.deadline_ms / 1000 if config else 0.0,
                    self._family,
                ),
                inputs=self._inputs(chosen),
                members=tuple(member.name for member in chosen),
                # A meta-model may answer with something else than classes.
                labels=labels if spec.output.shape == (len(labels),) else (),
                is_member=config is None,
                predictive=predictive,
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


def _scores(member: InspectedMember) -> tuple[str, ...]:
    """The uncertainty scores of an ensemble of members like this one."""
    if member.output.config.kind == "normal":
        return ()  # the parts of the variance are outputs of their own
    return CLASS_SCORES if member.output.gives_classes else VALUE_SCORES


def _view(stored: _Stored) -> TensorSpec:
    """The view of an arena that holds an input."""
    if isinstance(stored, TensorSpec):
        return stored
    return TensorSpec(IMAGE.name, "UINT8", (stored.side, stored.side, 3))


def _areas(
    members: Sequence[InspectedMember],
) -> tuple[list[list[int]], dict[str, int], list[TensorSpec]]:
    """Return the prediction areas of each member's outputs, and the prediction of each area.

    The first output's area has the member's own number. Between the two: by name, the areas for the
    variance of members that augment.
    """
    areas = [[position] for position in range(len(members))]
    stored = [member.prediction for member in members]
    for own, member in zip(areas, members, strict=True):
        for output in member.outputs[1:]:
            own.append(len(stored))
            stored.append(output.prediction)
    augmented = [member.name for member in members if member.config.augment is not None]
    variances = {name: area for area, name in enumerate(augmented, len(stored))}
    return areas, variances, stored + [AUGMENTATION_VARIANCE] * len(augmented)


def _unify(predictions: list[TensorSpec]) -> list[TensorSpec]:
    """Give predictions of one shape one datatype: FP64 as soon as one of them needs it."""
    wide = {tensor.shape for tensor in predictions if tensor.datatype == "FP64"}
    return [
        msgspec.structs.replace(tensor, datatype="FP64" if tensor.shape in wide else "FP32")
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
