"""A member with its configuration and the signature of its model: what it takes and predicts.

Used in the process that becomes the supervisor, and in the commands that plan or profile; pure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ensembled_client.wire import datatype_of

from server.config import MemberConfig
from workers.runtime.spec import ModelSignature, ModelSource, Preparation, TensorSpec

__all__ = ["IMAGE", "InspectedMember"]

#: The name of an image input for clients.
IMAGE = "image"


@dataclass(frozen=True)
class InspectedMember:
    """A member, its configuration, and its model as inspected.

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
    def client_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs under the clients' names; for an image, the view that is stored."""
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
        """How its image is preprocessed, None if it takes tensors."""
        return None if self.config.input is None else self.config.input.image.preparation()

    def _as_sent(self, tensor: TensorSpec) -> TensorSpec:
        config = self.config.inputs.get(tensor.name)
        if config is None:
            return tensor
        name, datatype = config.name or tensor.name, config.datatype or tensor.datatype
        return TensorSpec(name, datatype, tensor.shape)
