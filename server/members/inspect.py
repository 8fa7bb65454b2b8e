"""Builds or finds the models of a configuration's members, and inspects what they take and predict.

Runs in the supervisor before anything is started. The configuration flows in, inspected members
flow out; models are loaded in child processes, so no inference runtime is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from ensembled_client.wire import datatype_of

from server.config import Config, ImageConfig, InputTensorConfig, MemberConfig, RecipeConfig
from server.errors import ConfigError
from server.members.sources import build_models, source_of
from workers.backends.inspection import InspectionError, inspect_models
from workers.builder import BuiltModel
from workers.runtime.spec import ModelSignature, ModelSource, Preparation, TensorSpec

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
    """An input of a member's model: `sent` by clients, as a tensor or as an `image`."""

    sent: TensorSpec
    image: ImageConfig | None = None

    @property
    def stored(self) -> TensorSpec | Preparation:
        """What the arena stores: a tensor as it is sent, an image as it is prepared."""
        return self.sent if self.image is None else self.image.preparation()

    @property
    def pixels(self) -> TensorSpec:
        """A tensor as it is sent, an image as pixels."""
        if self.image is None:
            return self.sent
        return TensorSpec(self.sent.name, "UINT8", (self.image.size, self.image.size, 3))


@dataclass(frozen=True)
class InspectedMember:
    """A member, its configuration, and its model as inspected.

    `labels` are those of the prediction's elements, empty if there are none.
    """

    name: str
    config: MemberConfig
    source: ModelSource
    signature: ModelSignature
    labels: tuple[str, ...] = ()

    @property
    def prediction(self) -> TensorSpec:
        """The worker's prediction of a row: FP32, or FP64 if the model's own type requires it."""
        output = self.signature.output
        if self.config.output == "class":
            return TensorSpec("output", "FP32", (self.classes,))
        if self.config.output == "logits" and output.datatype != "FP64":
            return TensorSpec("output", "FP32", output.shape)
        return TensorSpec(
            "output", datatype_of(np.promote_types(output.dtype, np.float32)), output.shape
        )

    @property
    def classes(self) -> int:
        """The number of classes if the output is the index of one, else 0."""
        is_index = self.config.output == "class"
        return (self.config.classes or len(self.labels)) if is_index else 0

    @property
    def gives_classes(self) -> bool:
        """Whether the prediction is a probability per class."""
        return self.config.output != "values" and len(self.prediction.shape) == 1

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
            return MemberInput(IMAGE, image)
        name, datatype = config.name or tensor.name, config.datatype or tensor.datatype
        return MemberInput(msgspec.structs.replace(tensor, name=name, datatype=datatype))


def inspect_members(config: Config) -> list[InspectedMember]:
    """Build models from recipes where needed, and inspect the models of all members.

    Raises:
        ConfigError: if a model or its labels can't be used.
        StartError: if a recipe fails.
    """
    built = build_models(config)
    sources = [source_of(config, name, built) for name in config.members]
    try:
        signatures = inspect_models(sources)
    except InspectionError as error:
        raise ConfigError(error.messages) from None
    return [
        InspectedMember(
            name,
            _with_own_kind(member, signature),
            source,
            signature,
            _labels(name, member, built) or signature.labels.get(signature.output.name, ()),
        )
        for (name, member), source, signature in zip(
            config.members.items(), sources, signatures, strict=True
        )
    ]


def _with_own_kind(member: MemberConfig, signature: ModelSignature) -> MemberConfig:
    """Take over what the model says its output is, where the configuration says nothing."""
    kind = signature.kinds.get(signature.output.name)
    if kind is None or "output" in member.model_fields_set:
        return member
    return member.model_copy(update={"output": kind})


def _labels(name: str, member: MemberConfig, built: dict[str, BuiltModel]) -> tuple[str, ...]:
    path = member.labels
    if path is None and isinstance(member.model, RecipeConfig):
        path = built[name].labels_path
    return () if path is None else read_labels(f"members.{name}.labels", path)


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
