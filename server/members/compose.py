"""From a configuration to what the processes are told: arenas, ensembles, instances, models.

Runs in the supervisor before anything is started; pure. Members whose clients send the same input
share an arena. On what members must agree is `server.members.agreement`'s part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from allocator.matrix import AllocationMatrix
from server.config import Config, EnsembleConfig
from server.engine.spec import ServedModel
from server.errors import ConfigError
from server.inference.spec import ModelSpec
from server.members.agreement import own_labels, problems_of
from server.members.classes import classes_of
from server.members.member import IMAGE, KnownMember
from server.members.rule_checks import MetaModel, meta_output
from workers.combiner.scores import CLASS_SCORES, VALUE_SCORES
from workers.rules import is_custom
from workers.runtime.arena import arena_bytes, bytes_per_row, group_blocks
from workers.runtime.spec import (
    ArenaSpec,
    Binding,
    BlockSpec,
    EnsembleSpec,
    InstanceSpec,
    Scaling,
    TensorSpec,
)

__all__ = ["Composition", "KnownMember", "compose"]

_MAX_SEGMENT_ROWS = 64
_MIN_SEGMENTS = 4
_MAX_ROWS = 1 << 15


@dataclass(frozen=True)
class Composition:
    """What the processes are told: instances are by device."""

    arenas: tuple[ArenaSpec, ...]
    instances: dict[str, tuple[InstanceSpec, ...]]
    models: tuple[ModelSpec, ...]


def compose(
    config: Config,
    members: Sequence[KnownMember],
    matrix: AllocationMatrix,
    *,
    budget_bytes: int,
    offset: int,
    metas: Mapping[str, MetaModel] | None = None,
) -> Composition:
    """Compose the specs of a server.

    Args:
        config: the configuration.
        members: all of its members, in its order.
        matrix: where they go.
        budget_bytes: shared memory for all arenas together.
        offset: where the first arena begins.
        metas: the meta-models of the ensembles that stack, which without answer as members do.

    Raises:
        ConfigError: if members of an ensemble disagree, or the arenas don't fit the budget.
    """
    problems = list(problems_of(config, {member.name: member for member in members}))
    if problems:
        raise ConfigError(problems)
    groups: dict[tuple[TensorSpec, ...], list[KnownMember]] = {}
    for member in members:
        groups.setdefault(member.input_key, []).append(member)
    largest = {
        name: max(batch for _, member, batch in matrix.instances() if member == name)
        for name in matrix.members
    }
    rooms: list[_Room] = []
    for group in groups.values():
        batch = max(largest[member.name] for member in group)
        share = budget_bytes // len(groups)
        room = _Room(
            config,
            group,
            index=len(rooms),
            batch=batch,
            budget_bytes=share,
            offset=offset,
            metas=metas or {},
        )
        offset += arena_bytes(room.arena)
        rooms.append(room)
    where = {member.name: room for room in rooms for member in room.members}
    return Composition(
        arenas=tuple(room.arena for room in rooms),
        instances={
            device: tuple(
                where[name].instance(name, batch)
                for on, name, batch in matrix.instances()
                if on == device
            )
            for device in matrix.devices
            if any(on == device for on, _, _ in matrix.instances())
        },
        models=tuple(model for room in rooms for model in room.models()),
    )


class _Room:
    """One arena in the making, with its members and ensembles."""

    def __init__(
        self,
        config: Config,
        members: list[KnownMember],
        *,
        index: int,
        batch: int,
        budget_bytes: int,
        offset: int,
        metas: Mapping[str, MetaModel],
    ) -> None:
        self.members = members
        self._metas = metas
        self._index = index
        self._config = config
        self._positions = {member.name: i for i, member in enumerate(members)}
        self._preparations = list(dict.fromkeys(m.preparation for m in members if m.preparation))
        predictions = _unify([member.prediction for member in members])
        mine = {
            name: ensemble
            for name, ensemble in config.ensembles.items()
            if ensemble.members[0] in self._positions
        }
        self._classes = {
            name: classes_of([members[i] for i in self._indices(one)], own_labels(name, one))
            for name, one in mine.items()
        }
        ensembles = [self._ensemble(name, one, predictions) for name, one in mine.items()]
        ensembles += [
            EnsembleSpec(member.name, (i,), "mean", (), 1, predictions[i])
            for i, member in enumerate(members)
        ]
        views = self._views()
        blocks = group_blocks(predictions)
        segments, rows = _segments(views, blocks, ensembles, batch, budget_bytes)
        self.arena = ArenaSpec(
            offset=offset,
            segments=segments,
            segment_rows=rows,
            views=views,
            members=tuple(self._positions),
            blocks=blocks,
            ensembles=tuple(ensembles),
        )

    def _views(self) -> tuple[TensorSpec, ...]:
        if not self._preparations:
            return self.members[0].client_inputs
        return tuple(
            TensorSpec(f"{IMAGE}.{i}", "UINT8", (one.size, one.size, 3))
            for i, one in enumerate(self._preparations)
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
        return EnsembleSpec(
            name=name,
            members=members,
            rule=config.rule,
            weights=config.weights or (),
            quorum=config.required_members,
            output=output if meta is None else meta_output(meta.signature),
            scores=CLASS_SCORES if self.members[members[0]].gives_classes else VALUE_SCORES,
            columns=classes.columns,
            stages=self._stages(config),
            thresholds=config.confidence or (),
            trim=config.resolved_trim,
            meta=None if meta is None else meta.source,
            directory=str(self._config.directory.absolute()) if is_custom(config.rule) else "",
            prediction=None if meta is None else output,
        )

    def _stages(self, config: EnsembleConfig) -> tuple[int, ...]:
        """The masks of the members asked up to each stage of a cascade."""
        stages: list[int] = []
        for stage in config.cascade or ():
            mask = sum(1 << self._positions[member] for member in stage)
            stages.append(mask | (stages[-1] if stages else 0))
        return tuple(stages)

    def _indices(self, config: EnsembleConfig) -> tuple[int, ...]:
        return tuple(self._positions[member] for member in config.members)

    def instance(self, name: str, batch: int) -> InstanceSpec:
        position = self._positions[name]
        member = self.members[position]
        return InstanceSpec(
            arena=self._index,
            member=position,
            batch=batch,
            source=member.source,
            signature=member.signature,
            bindings=self._bindings(member),
            meaning=member.config.output,
            temperature=member.config.temperature,
            classes=member.classes,
        )

    def _bindings(self, member: KnownMember) -> tuple[Binding, ...]:
        if member.preparation is not None and member.config.input is not None:
            image = member.config.input.image
            scaling = Scaling(image.mean, image.std, image.layout)
            return (Binding(self._preparations.index(member.preparation), scaling),)
        names = [view.name for view in self.arena.views]
        return tuple(Binding(names.index(tensor.name)) for tensor in member.client_inputs)

    def models(self) -> Iterable[ModelSpec]:
        for i, spec in enumerate(self.arena.ensembles):
            chosen = [self.members[member] for member in spec.members]
            classes = self._classes.get(spec.name)
            labels = chosen[0].labels if classes is None else classes.labels
            config = self._config.ensembles.get(spec.name)
            wanted = dict.fromkeys(m.preparation for m in chosen if m.preparation)
            yield ModelSpec(
                served=ServedModel(
                    self._index, i, spec, config.deadline_ms / 1000 if config else 0.0
                ),
                inputs=() if wanted else self.arena.views,
                views=() if wanted else tuple(range(len(self.arena.views))),
                preparations=tuple((self._preparations.index(one), one) for one in wanted),
                members=tuple(member.name for member in chosen),
                # A meta-model may answer something else than classes.
                labels=labels if spec.output.shape == (len(labels),) else (),
                is_member=config is None,
            )


def _unify(predictions: list[TensorSpec]) -> list[TensorSpec]:
    """Give predictions of one shape one type: FP64 as soon as one of them needs it."""
    wide = {tensor.shape for tensor in predictions if tensor.datatype == "FP64"}
    return [
        TensorSpec("output", "FP64" if tensor.shape in wide else "FP32", tensor.shape)
        for tensor in predictions
    ]


def _segments(
    views: Sequence[TensorSpec],
    blocks: Sequence[BlockSpec],
    ensembles: Sequence[EnsembleSpec],
    batch: int,
    budget_bytes: int,
) -> tuple[int, int]:
    """How many segments of how many rows: as many rows as fit, segments no smaller than a batch."""
    row = bytes_per_row(views, blocks, ensembles)
    # Every array is aligned, so leave a little of the budget to that.
    rows = min((budget_bytes - (64 << 10)) // row, _MAX_ROWS)
    if rows < 2 * batch:
        raise ConfigError(
            f"server.arena_bytes: {budget_bytes} bytes are too few for batches of {batch} rows of "
            f"{row} bytes each, give it at least {2 * batch * row + (64 << 10)} per kind of input"
        )
    size = max(batch, min(_MAX_SEGMENT_ROWS, rows // _MIN_SEGMENTS))
    return rows // size, size
