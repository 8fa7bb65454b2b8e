"""A member, its configuration, and what is known of its model: what clients send, what it gives.

Used in the process that starts the server and in those that plan and profile; pure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ensembled_client.wire import datatype_of

from server.config import MemberConfig
from workers.runtime.spec import ModelSignature, ModelSource, Preparation, TensorSpec

__all__ = ["IMAGE", "KnownMember"]

#: What clients call an image.
IMAGE = "image"


@dataclass(frozen=True)
class KnownMember:
    """A member, its configuration, and what is known of its model.

    Attributes:
        labels: of the prediction's elements, empty if there are none.
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
        if self.config.output == "class":
            return TensorSpec("output", "FP32", (self.classes,))
        if self.config.output == "logits" and output.datatype != "FP64":
            return TensorSpec("output", "FP32", output.shape)
        return TensorSpec(
            "output", datatype_of(np.promote_types(output.dtype, np.float32)), output.shape
        )

    @property
    def classes(self) -> int:
        """How many classes there are, if its output is the index of one; else 0."""
        is_index = self.config.output == "class"
        return (self.config.classes or len(self.labels)) if is_index else 0

    @property
    def gives_classes(self) -> bool:
        """Whether its prediction is a probability per class."""
        return self.config.output != "values" and len(self.prediction.shape) == 1

    @property
    def client_inputs(self) -> tuple[TensorSpec, ...]:
        """What the client sends, by the client's names; for an image the view that is stored."""
        if self.config.input is not None:
            size = self.config.input.image.size
            return (TensorSpec(IMAGE, "UINT8", (size, size, 3)),)
        return tuple(self._as_sent(tensor) for tensor in self.signature.inputs)

    @property
    def input_key(self) -> tuple[TensorSpec, ...]:
        """Equal for members that can share an arena."""
        if self.config.input is not None:
            return (TensorSpec(IMAGE, "BYTES", ()),)
        return tuple(sorted(self.client_inputs, key=lambda tensor: tensor.name))

    @property
    def preparation(self) -> Preparation | None:
        """How its image is prepared, if it takes one."""
        return None if self.config.input is None else self.config.input.image.preparation()

    def _as_sent(self, tensor: TensorSpec) -> TensorSpec:
        config = self.config.inputs.get(tensor.name)
        if config is None:
            return tensor
        name, datatype = config.name or tensor.name, config.datatype or tensor.datatype
        return TensorSpec(name, datatype, tensor.shape)
