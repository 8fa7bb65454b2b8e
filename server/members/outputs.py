"""A member's outputs: what the model gives, and what the configuration makes of it.

Used in the supervisor before anything is started; pure. A tensor of the model's signature and its
section of the configuration flow in, the prediction that a worker stores flows out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from ensembled_client.wire import datatype_of

from server.config import OutputConfig
from workers.runtime.spec import OutputSpec, TensorSpec

__all__ = ["MemberOutput", "output_problems"]

_BINARY = ("binary", "binary_logits")
_LINEAR_AXIS = 1
#: The kinds that are no probabilities of classes.
_NUMBERS = ("values", "normal", "quantiles")


@dataclass(frozen=True)
class MemberOutput:
    """One of a member's outputs.

    Attributes:
        member: whose output it is.
        name: for clients.
        key: where the configuration describes it, for messages.
        tensor: what the model gives.
        labels: of the prediction's classes, empty if there are none.
    """

    member: str
    name: str
    key: str
    config: OutputConfig
    tensor: TensorSpec
    labels: tuple[str, ...] = ()

    @property
    def section(self) -> str:
        """The section of the configuration that has its keys, for messages."""
        return self.key.removesuffix(".output")

    @property
    def prediction(self) -> TensorSpec:
        """The worker's prediction of a row: FP32, or FP64 if the model's own type requires it."""
        kind, own = self.config.kind, self.tensor
        if kind == "class":
            return TensorSpec(self.name, "FP32", (self.classes,))
        is_float = kind == "logits" and own.datatype != "FP64"
        wide = "FP32" if is_float else datatype_of(np.promote_types(own.dtype, np.float32))
        if kind in _BINARY:
            return TensorSpec(self.name, wide, (2,))
        return msgspec.structs.replace(own, name=self.name, datatype=wide)

    @property
    def gives_numbers(self) -> bool:
        """Whether the prediction is numbers, or a distribution of numbers."""
        return self.config.kind in _NUMBERS

    @property
    def classes(self) -> int:
        """The number of classes if the output is the index of one, else 0."""
        is_index = self.config.kind == "class"
        return (self.config.classes or len(self.labels)) if is_index else 0

    @property
    def class_axis(self) -> int:
        """The axis of the classes in a prediction with the batch, counted from the end."""
        axis, axes = self.config.class_axis, len(self.prediction.shape)
        if axis is None or not -axes <= axis <= axes:  # the latter is refused
            return -1
        return axis if axis < 0 else axis - axes - 1

    @property
    def gives_classes(self) -> bool:
        """Whether the prediction has a probability per class."""
        return self.config.kind not in _NUMBERS and bool(self.prediction.shape)

    def spec(self, area: int) -> OutputSpec:
        """Return what a worker does with it, which writes it to this area."""
        return OutputSpec(
            area=area,
            kind=self.config.kind,
            temperature=self.config.temperature,
            classes=self.classes,
            class_axis=self.class_axis,
            is_padded=self.config.max_shape is not None,
            spread=self.config.spread,
            symbols=self.prediction.symbols,
        )


def output_problems(output: MemberOutput) -> Iterator[str]:
    """Yield where an output's section contradicts the model, a line each."""
    own, kind, where = output.tensor, output.config.kind, output.key
    given = f"{own.datatype} {list(own.shape)}"
    if kind == "class" and (
        own.shape not in {(), (1,)} or not np.issubdtype(own.dtype, np.integer)
    ):
        yield f"{where}: a class is one whole number per row, the model gives {given}"
    if kind in _BINARY and own.shape not in {(), (1,)}:
        yield f"{where}: {kind} is one number per row, the model gives {given}"
    if kind == "normal" and own.shape[-1:] != (2,):
        yield (
            f"{where}: normal is a mean and a {output.config.spread} along the last axis, the "
            f"model gives {given} (if they are outputs of their own, give spread_output)"
        )
    if kind == "quantiles" and own.shape[-1:] != (len(output.config.levels),):
        yield (
            f"{where}: {len(output.config.levels)} levels need as many quantiles along the last "
            f"axis, the model gives {given}"
        )
    gives_classes = kind in {"logits", "probabilities"}
    problems = list(_class_axis_problems(output)) if gives_classes else []
    yield from problems or _label_problems(output)


def _class_axis_problems(output: MemberOutput) -> Iterator[str]:
    config, shape, where = output.config, output.prediction.shape, output.key
    axes, axis = len(shape), config.class_axis
    if not axes:
        if config.kind == "logits" or config.temperature != 1:
            yield f"{where}: {config.kind} need an output per class, not one per row"
    elif axis is None:
        if axes > _LINEAR_AXIS:
            yield (
                f"{where}: which axis of {['n', *shape]} holds the classes? set class_axis, for "
                f"example 1 for {['n', shape[0]]} or -1 for the last"
            )
    elif not -axes <= axis <= axes:
        yield f"{where}: class_axis {axis} is none of the {axes + 1} axes of {['n', *shape]}"
    elif shape[output.class_axis] < 0:
        yield f"{where}: the classes can't be on an axis of variable size, {['n', *shape]}"


def _label_problems(output: MemberOutput) -> Iterator[str]:
    shape, axis = output.prediction.shape, output.class_axis
    is_map = output.gives_classes and -axis <= len(shape)
    classes = shape[axis] if is_map or len(shape) == 1 else 0
    if output.labels and len(output.labels) != classes:
        count = len(output.labels)
        yield f"{output.section}.labels: {count} labels for an output of shape {list(shape)}"
