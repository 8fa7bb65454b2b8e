"""Builds or finds the models of a configuration's members, and inspects what they take and predict.

Runs in the supervisor before anything is started. The configuration flows in, inspected members
flow out; models are loaded in child processes, so no inference runtime is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import msgspec

from server.config import (
    Config,
    ImageConfig,
    InputTensorConfig,
    MemberConfig,
    OutputConfig,
    RecipeConfig,
)
from server.errors import ConfigError
from server.members.outputs import MemberOutput
from server.members.probes import EACH_TIME, Probes
from server.members.sources import build_models, source_of, variant_source
from server.members.symbols import named_alike
from server.members.variants import VARIANT, allowed_variants, variant_problems
from workers.backends.files import stamped
from workers.backends.inspection import InspectionError
from workers.builder import BuiltModel
from workers.runtime.spec import (
    DeviceSpec,
    ModelSignature,
    ModelSource,
    OutputKind,
    Preparation,
    TensorSpec,
)

__all__ = [
    "IMAGE",
    "InspectedMember",
    "MemberInput",
    "inspect_members",
    "read_labels",
]

#: An image as clients send it.
IMAGE = TensorSpec("image", "BYTES", ())


@dataclass(frozen=True)
class MemberInput:
    """An input of a member's model: `sent` by clients, as a tensor or as an `image`.

    Attributes:
        margin: of an image, so many pixels are stored around it.
        pad: what rows of different sizes are padded with; None if they are not.
        mask: the model's own name of the input that this one is the mask of.
    """

    sent: TensorSpec
    image: ImageConfig | None = None
    margin: int = 0
    pad: float | None = None
    mask: str | None = None

    @property
    def stored(self) -> TensorSpec | Preparation:
        """What the arena stores: a tensor as it is sent, an image as it is prepared."""
        return self.sent if self.image is None else self.image.preparation(self.margin)

    @property
    def view(self) -> TensorSpec:
        """What the arena stores, as a tensor."""
        stored = self.stored
        if isinstance(stored, TensorSpec):
            return stored
        return TensorSpec(self.sent.name, "UINT8", (stored.side, stored.side, 3))

    @property
    def pixels(self) -> TensorSpec:
        """A tensor as it is sent, an image as pixels."""
        if self.image is None:
            return self.sent
        return TensorSpec(self.sent.name, "UINT8", (self.image.size, self.image.size, 3))


@dataclass(frozen=True)
class InspectedMember:
    """A member, its configuration, and its model as inspected.

    `output_labels` are those that were read from files, by the model's own name of the output.
    `variants` are those that may answer in its place, members called ``NAME/VARIANT``.
    """

    name: str
    config: MemberConfig
    source: ModelSource
    signature: ModelSignature
    output_labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    variants: tuple[InspectedMember, ...] = ()

    @property
    def forms(self) -> tuple[InspectedMember, ...]:
        """The member as its own model, and as each of the variants."""
        return self, *self.variants

    def may_run_on(self, device: DeviceSpec) -> bool:
        """Whether this form of the member may run on a device."""
        variant = self.name.partition(VARIANT)[2]
        runs_on = self.config.variants[variant].runs_on if variant else None
        return runs_on in (None, "gpu" if device.is_cuda else "cpu")

    @cached_property
    def outputs(self) -> tuple[MemberOutput, ...]:
        """Its outputs, the main one first."""
        key = f"members.{self.name}.output"
        known = {**self.signature.labels, **self.output_labels}
        return tuple(
            MemberOutput(
                member=self.name,
                name=config.name or own,
                key=f"{key}s.{own}" if self.config.outputs else key,
                config=_with_own_kind(config, self.signature.kinds.get(tensor.name)),
                tensor=tensor,
                labels=known.get(tensor.name, ()),
            )
            for (own, config), tensor in zip(
                self.config.served_outputs.items(), self.signature.outputs, strict=True
            )
        )

    @property
    def output(self) -> MemberOutput:
        """The main output."""
        return self.outputs[0]

    @property
    def prediction(self) -> TensorSpec:
        """The prediction of the main output."""
        return self.output.prediction

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the main output's classes, empty if there are none."""
        return self.output.labels

    @property
    def inputs(self) -> tuple[MemberInput, ...]:
        """What clients send for its model's inputs, in the order of `signature`."""
        return tuple(map(self._input, self.signature.inputs))

    @property
    def input_key(self) -> tuple[TensorSpec, ...]:
        """Equal for members whose clients send the same."""
        return tuple(sorted((one.sent for one in self.inputs), key=lambda tensor: tensor.name))

    def _input(self, tensor: TensorSpec) -> MemberInput:
        config = self.config.inputs.get(tensor.name) or InputTensorConfig()
        image = config.image or (self.config.input.image if self.config.input else None)
        if image is not None:
            return MemberInput(IMAGE, image, self.config.margin)
        name, datatype = config.name or tensor.name, config.datatype or tensor.datatype
        sent = msgspec.structs.replace(tensor, name=name, datatype=datatype)
        pad = config.pad if config.mask is None else 0
        return MemberInput(sent, pad=pad, mask=config.mask)


def inspect_members(
    config: Config,
    probes: Probes = EACH_TIME,
    *,
    formers: Mapping[str, ModelSource] = MappingProxyType({}),
) -> list[InspectedMember]:
    """Build models from recipes where needed, and inspect the models of all members.

    Those that have `formers` by name stay what these are, whatever has become of their files, as
    long as the configuration means the same. Variants that `may_differ` does not allow are left
    out, which is logged.

    Raises:
        ConfigError: if a model or its labels can't be used.
        StartError: if a recipe fails.
    """
    built = build_models(config)
    sources = {
        name: _former(formers.get(name), source) or stamped(source)
        for name, source in _sources(config, built)
    }
    try:
        found = dict(zip(sources, probes.inspect_models(list(sources.values())), strict=True))
    except InspectionError as error:
        raise ConfigError(error.messages) from None
    if problems := list(variant_problems(found)):
        raise ConfigError(problems)
    signatures = named_alike(config, {name: found[name] for name in config.members})
    members = [
        InspectedMember(
            name, member, sources[name], signature, _labels(name, member, signature, built)
        )
        for (name, member), signature in zip(
            config.members.items(), signatures.values(), strict=True
        )
    ]
    return [_with_variants(member, sources, found) for member in members]


def _sources(config: Config, built: dict[str, BuiltModel]) -> Iterator[tuple[str, ModelSource]]:
    """Yield the models of members, each with those of its variants that may run, by name."""
    for name, member in config.members.items():
        source = source_of(config, name, built)
        yield name, source
        for variant in allowed_variants(name, member):
            yield f"{name}{VARIANT}{variant}", variant_source(source, member.variants[variant])


def _with_variants(
    member: InspectedMember,
    sources: Mapping[str, ModelSource],
    found: Mapping[str, ModelSignature],
) -> InspectedMember:
    """Add a member's variants, whose dimensions are called as the member's."""
    variants = []
    for name, source in sources.items():
        if name.startswith(f"{member.name}{VARIANT}"):
            size = found[name].parameter_bytes
            signature = msgspec.structs.replace(member.signature, parameter_bytes=size)
            variants.append(replace(member, name=name, source=source, signature=signature))
    return replace(member, variants=tuple(variants))


def _former(former: ModelSource | None, source: ModelSource) -> ModelSource | None:
    """A former source if it is of the same model as a new one, which has no stamps."""
    if former is None or msgspec.structs.replace(former, stamps=(), links="") != source:
        return None
    return former


def _with_own_kind(config: OutputConfig, kind: OutputKind | None) -> OutputConfig:
    """Take over what the model says an output is, where the configuration says nothing.

    A model that says so itself has the classes on the last axis.
    """
    if kind is None or "kind" in config.model_fields_set:
        return config
    own: dict[str, object] = {"kind": kind}
    if kind in {"logits", "probabilities"} and config.class_axis is None:
        own["class_axis"] = -1
    return config.model_copy(update=own)


def _labels(
    name: str, member: MemberConfig, signature: ModelSignature, built: dict[str, BuiltModel]
) -> dict[str, tuple[str, ...]]:
    """Read the label files of a member's outputs; a recipe may have made that of the main one."""
    made = built[name].labels_path if isinstance(member.model, RecipeConfig) else None
    labels: dict[str, tuple[str, ...]] = {}
    outputs = member.served_outputs.items()
    for (own, config), tensor in zip(outputs, signature.outputs, strict=True):
        path = config.labels or (made if tensor is signature.output else None)
        if path is not None:
            key = f"members.{name}.outputs.{own}" if member.outputs else f"members.{name}"
            labels[tensor.name] = read_labels(f"{key}.labels", path)
    return labels


def read_labels(key: str, path: Path) -> tuple[str, ...]:
    """Return the labels in the file of a key, one per line, stripped of surrounding spaces.

    Raises:
        ConfigError: if it can't be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}: {path}: {error}") from None
    return tuple(line.strip() for line in lines)
