"""From a configuration to what the processes are told: arenas, ensembles, instances, models.

Runs in the supervisor before anything is started; pure. Members whose clients send the same input
share an arena. Everything on which members of an ensemble must agree is checked here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from allocator.matrix import AllocationMatrix
from server.accepted import ServedModel
from server.config import Config, EnsembleConfig, MemberConfig
from server.errors import ConfigError
from server.front_end_spec import ModelSpec
from workers.arena import arena_bytes, bytes_per_row, group_blocks
from workers.scores import CLASS_SCORES, VALUE_SCORES
from workers.spec import (
    ArenaSpec,
    Binding,
    BlockSpec,
    EnsembleSpec,
    InstanceSpec,
    ModelSignature,
    ModelSource,
    Preparation,
    Scaling,
    TensorSpec,
)

__all__ = ["Composition", "KnownMember", "compose"]

_IMAGE = "image"
_MAX_SEGMENT_ROWS = 64
_MIN_SEGMENTS = 4
_MAX_ROWS = 1 << 15
_PROBABILITY_RULES = {"geometric_mean"}
_CLASS_RULES = {"vote", "geometric_mean"}


@dataclass(frozen=True)
class KnownMember:
    """A member, its configuration, and what is known of its model.

    Attributes:
        labels: of the output's elements, empty if there are none.
    """

    name: str
    config: MemberConfig
    source: ModelSource
    signature: ModelSignature
    labels: tuple[str, ...] = ()

    @property
    def prediction(self) -> TensorSpec:
        """What the worker writes: FP32, or FP64 where the model's own type needs it."""
        output = self.signature.output
        wide = output.datatype not in {"FP16", "FP32"} and self.config.output != "logits"
        datatype = "FP64" if wide or output.datatype == "FP64" else "FP32"
        return TensorSpec("output", datatype, output.shape)

    @property
    def gives_classes(self) -> bool:
        """Whether its prediction is a probability per class."""
        return self.config.output != "values" and len(self.signature.output.shape) == 1

    @property
    def client_inputs(self) -> tuple[TensorSpec, ...]:
        """What the client sends, by the client's names; for an image the view that is stored."""
        if self.config.input is not None:
            size = self.config.input.image.size
            return (TensorSpec(_IMAGE, "UINT8", (size, size, 3)),)
        return tuple(
            TensorSpec(self._client_name(tensor.name), tensor.datatype, tensor.shape)
            for tensor in self.signature.inputs
        )

    @property
    def input_key(self) -> tuple[TensorSpec, ...]:
        """Equal for members that can share an arena."""
        if self.config.input is not None:
            return (TensorSpec(_IMAGE, "BYTES", ()),)
        return tuple(sorted(self.client_inputs, key=lambda tensor: tensor.name))

    @property
    def preparation(self) -> Preparation | None:
        """How its image is prepared, if it takes one."""
        return None if self.config.input is None else self.config.input.image.preparation()

    def _client_name(self, own: str) -> str:
        tensor = self.config.inputs.get(own)
        return (tensor.name if tensor is not None else None) or own


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
) -> Composition:
    """Compose the specs of a server.

    Args:
        config: the configuration.
        members: all of its members, in its order.
        matrix: where they go.
        budget_bytes: shared memory for all arenas together.
        offset: where the first arena begins.

    Raises:
        ConfigError: if members of an ensemble disagree, or the arenas don't fit the budget.
    """
    problems = list(_problems(config, {member.name: member for member in members}))
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
            config, group, index=len(rooms), batch=batch, budget_bytes=share, offset=offset
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
    ) -> None:
        self.members = members
        self._index = index
        self._config = config
        self._positions = {member.name: i for i, member in enumerate(members)}
        self._preparations = list(dict.fromkeys(m.preparation for m in members if m.preparation))
        predictions = _unify([member.prediction for member in members])
        ensembles = [
            self._ensemble(name, ensemble, predictions)
            for name, ensemble in config.ensembles.items()
            if ensemble.members[0] in self._positions
        ]
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
            TensorSpec(f"{_IMAGE}.{i}", "UINT8", (one.size, one.size, 3))
            for i, one in enumerate(self._preparations)
        )

    def _ensemble(
        self, name: str, config: EnsembleConfig, predictions: list[TensorSpec]
    ) -> EnsembleSpec:
        members = tuple(self._positions[member] for member in config.members)
        return EnsembleSpec(
            name=name,
            members=members,
            rule=config.rule,
            weights=config.weights or (),
            quorum=config.required_members,
            output=predictions[members[0]],
            scores=CLASS_SCORES if self.members[members[0]].gives_classes else VALUE_SCORES,
            stages=self._stages(config),
            thresholds=config.confidence or (),
        )

    def _stages(self, config: EnsembleConfig) -> tuple[int, ...]:
        """The masks of the members asked up to each stage of a cascade."""
        stages: list[int] = []
        for stage in config.cascade or ():
            mask = sum(1 << self._positions[member] for member in stage)
            stages.append(mask | (stages[-1] if stages else 0))
        return tuple(stages)

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
                labels=next((member.labels for member in chosen if member.labels), ()),
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


def _problems(config: Config, members: Mapping[str, KnownMember]) -> Iterable[str]:
    """Everything that members, or members of one ensemble, don't agree on; one line each."""
    for name, member in members.items():
        yield from _member_problems(name, member)
    for name, ensemble in config.ensembles.items():
        chosen = [members[member] for member in ensemble.members]
        first = chosen[0]
        for other in chosen[1:]:
            yield from _disagreements(f"ensembles.{name}", first, other)
        outputs = first.signature.output
        if ensemble.rule in _CLASS_RULES and not outputs.shape:
            yield f"ensembles.{name}.rule: {ensemble.rule} needs an output per class"
        if ensemble.cascade and not first.gives_classes:
            yield f"ensembles.{name}.cascade: needs members that give a probability per class"
        if ensemble.rule in _PROBABILITY_RULES and first.config.output == "values":
            yield (
                f"ensembles.{name}.rule: {ensemble.rule} needs members whose "
                f"output is logits or probabilities, not values"
            )


def _member_problems(name: str, member: KnownMember) -> Iterable[str]:
    inputs = member.signature.inputs
    if member.config.input is not None:
        image = member.config.input.image
        side = (image.size, image.size)
        shape = (3, *side) if image.layout == "nchw" else (*side, 3)
        if len(inputs) != 1 or inputs[0].datatype != "FP32" or inputs[0].shape != shape:
            yield (
                f"members.{name}.input.image: the model takes {_describe(inputs)}, "
                f"not one image FP32 {list(shape)}"
            )
    known = [tensor.name for tensor in inputs]
    for own in member.config.inputs:
        if own not in known:
            yield f"members.{name}.inputs: the model has no input {own!r}, it has {known}"
    output = member.signature.output
    if member.config.output == "logits" and not output.shape:
        yield f"members.{name}.output: logits need an output per class, not one per row"
    if member.labels and (len(output.shape) != 1 or len(member.labels) != output.shape[0]):
        yield (
            f"members.{name}.labels: {len(member.labels)} labels for an output of shape "
            f"{list(output.shape)}"
        )


def _disagreements(where: str, first: KnownMember, other: KnownMember) -> Iterable[str]:
    if first.input_key != other.input_key:
        yield (
            f"{where}: members disagree on their input: {first.name!r} takes "
            f"{_describe(first.client_inputs)}, {other.name!r} takes "
            f"{_describe(other.client_inputs)} (members.{other.name}.inputs can rename them)"
        )
    if first.prediction.shape != other.prediction.shape:
        yield (
            f"{where}: members disagree on their output: {first.name!r} gives shape "
            f"{list(first.prediction.shape)}, {other.name!r} gives {list(other.prediction.shape)}"
        )
    if (first.config.output == "values") != (other.config.output == "values"):
        yield (
            f"{where}: members disagree on what their output means: {first.name!r} gives "
            f"{first.config.output}, {other.name!r} gives {other.config.output}"
        )
    if first.labels and other.labels and first.labels != other.labels:
        yield f"{where}: {first.name!r} and {other.name!r} have different labels"


def _describe(tensors: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{t.name} {t.datatype} {list(t.shape)}" for t in tensors)
