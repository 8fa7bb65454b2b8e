"""The sections of a member's inputs: what clients send, and how it becomes what the model takes.

Runs in the process that reads the configuration file; the sections flow in as mappings and out as
frozen models, parts of a member's section.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from ensembled_client.wire import DTYPES
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    WithJsonSchema,
    model_validator,
)

from server.config.base import Section
from server.errors import did_you_mean
from workers.runtime.spec import InputLimit, Preparation, TensorSpec, variable_symbols

__all__ = [
    "IMAGE_NAME",
    "Dimension",
    "ImageConfig",
    "InputConfig",
    "InputTensorConfig",
    "NamedInput",
    "OpenSize",
]

#: What clients call an image.
IMAGE_NAME = "image"

Dimension = Annotated[int, Field(ge=1)]


def _check_size(size: int | str) -> int | str:
    if isinstance(size, int) and (size == 0 or size < -1):
        raise ValueError("should be greater than 0, or -1 where it is variable")
    if isinstance(size, str) and not size.isidentifier():
        raise ValueError(f"should be a number or a name, not {size!r}")
    return size


#: A size, or -1 for a variable one.
OpenSize = Annotated[int, AfterValidator(_check_size)]
#: A size, -1 for a variable one, or the name of a variable one.
_OpenDimension = Annotated[int | str, AfterValidator(_check_size)]
_BYTES = "BYTES"

#: One number for all channels, or one per channel.
_PER_CHANNEL = (
    BeforeValidator(lambda value: (value,) * 3 if isinstance(value, int | float | str) else value),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number"},
                {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3},
            ]
        }
    ),
)


class ImageConfig(Section):
    """How an image becomes the model's input: resize, crop, then `(pixel - mean) / std`."""

    size: int = Field(ge=1, le=4096)
    """Height and width of the model's input, in pixels."""
    crop: float = Field(default=0.875, gt=0, le=1)
    """Share of the resized shorter side that the central crop keeps."""
    mean: Annotated[tuple[float, float, float], *_PER_CHANNEL]
    """Subtracted from the pixels, which are 0 to 255: one number, or one per RGB channel."""
    std: Annotated[tuple[PositiveFloat, PositiveFloat, PositiveFloat], *_PER_CHANNEL]
    """Divides the result: one positive number, or one per RGB channel."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """Resampling filter of the resize."""
    layout: Literal["nchw", "nhwc"] = "nchw"
    """Order of the dimensions in the model's input: channels first or last."""

    @property
    def most_margin(self) -> int:
        """Pixels of the resized image on each side of the crop, as far as it is a square."""
        return (round(self.size / self.crop) - self.size) // 2

    def preparation(self, margin: int = 0) -> Preparation:
        """Return the part of the preprocessing that members can share."""
        return Preparation(self.size, self.crop, self.interpolation, margin)


class InputConfig(Section):
    """What the client sends instead of the model's own tensor."""

    image: ImageConfig
    """The client sends an image, in an input named `image`."""


class InputTensorConfig(Section):
    """One of the model's inputs: what clients send, and what the model file does not specify."""

    name: str | None = Field(default=None, min_length=1)
    """Name that the client uses; the model's own if absent."""
    datatype: str | None = None
    """Datatype that the client sends, e.g. `FP32`, which the worker converts; the model's own if
    absent."""
    shape: tuple[_OpenDimension, ...] | None = None
    """Shape without the batch dimension, for a model that does not describe itself (TorchScript).
    A variable dimension is -1, or a name: inputs where it has the same name have equal sizes."""
    model_datatype: str | None = None
    """The model's own datatype, for a model that does not describe itself; `datatype` if absent."""
    image: ImageConfig | None = None
    """The client sends an image instead, in an input named `image`: for a model that takes an image
    beside other tensors."""
    max_shape: tuple[Dimension, ...] = ()
    """Largest size of each variable dimension, or of each dimension without the batch."""
    max_bytes: int = Field(default=0, ge=0, le=1 << 30)
    """For `BYTES`: the most bytes of a row, of all its elements together."""
    pad: int | float | None = None
    """Value that rows are padded with up to the longest of their batch; without it only rows of
    equal sizes share a batch."""
    mask: str | None = Field(default=None, min_length=1)
    """The model's input that this one is the mask of: 1 for what the client has sent, 0 for what
    rows are padded with. Clients may leave it out."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.image is not None and self.name not in {None, IMAGE_NAME}:
            raise ValueError(f"an image is called {IMAGE_NAME!r} by the client, remove the name")
        if self.image is not None and self.datatype is not None and self.shape is None:
            raise ValueError("an image is sent as a file or as pixels, remove the datatype")
        if self.shape is not None and self.datatype is None:
            raise ValueError("shape needs a datatype, give both")
        if self.mask is not None and self.pad is not None:
            raise ValueError("a mask is padded with 0, remove pad")
        if self.max_bytes and self.max_shape:
            raise ValueError("max_bytes is for BYTES, max_shape for numbers, remove one of them")
        if self.model_datatype is not None and self.shape is None:
            raise ValueError(
                "model_datatype is for a model that does not describe itself, give its shape, too"
            )
        for datatype in (self.datatype, self.model_datatype):
            if datatype is not None and datatype not in (_BYTES, *DTYPES):
                known = (*DTYPES, _BYTES)
                hint = did_you_mean(datatype.upper(), known) or f", use one of {', '.join(known)}"
                raise ValueError(f"unknown datatype {datatype!r}{hint}")
        return self

    def declared(self, own: str) -> TensorSpec | None:
        """Return the spec of the model's input `own`, None if it is not declared here."""
        datatype = self.model_datatype or self.datatype
        shape = () if self.shape is None and datatype == _BYTES else self.shape
        if datatype is None or shape is None:
            return None
        sizes = tuple(size if isinstance(size, int) else -1 for size in shape)
        return TensorSpec(own, datatype, sizes, symbols=variable_symbols(own, shape))

    def limit(self, own: str) -> InputLimit | None:
        """Return the largest size of the model's input `own`, None if none is given."""
        has_limit = self.max_shape or self.max_bytes
        return InputLimit(own, self.max_shape, self.max_bytes) if has_limit else None


#: An input by its mapping, or by its name alone.
NamedInput = Annotated[
    InputTensorConfig,
    BeforeValidator(
        lambda value: {"name": value} if isinstance(value, str) else value,
        json_schema_input_type=str | InputTensorConfig,
    ),
]
