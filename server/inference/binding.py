"""From a request's tensors to what the arena stores: names, types and shapes checked.

Runs in the front-end, under every protocol. Images are decoded and prepared in threads, each
distinct preparation once per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from server.engine.memory_budget import MemoryBudget
from server.engine.request import Prepared, StoredInput
from server.errors import InvalidRequest
from server.inference.images import Encoded, prepare_images
from server.inference.spec import ModelSpec
from server.inference.tensors import Tensor
from workers.runtime.spec import TensorSpec

__all__ = ["Bound", "bind_images", "bind_tensors", "raw_rows"]

_IMAGE = "image"
_IMAGE_INPUT = TensorSpec(_IMAGE, "BYTES", ())
_IMAGE_DIMENSIONS = 4


class Bound(NamedTuple):
    """A request that was checked against its model.

    Attributes:
        prepared: what it asks.
        inputs: what goes into the arena; unchanged until the request is answered.
        rows: at least 1.
    """

    prepared: Prepared
    inputs: list[StoredInput]
    rows: int


def raw_rows(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of an array, row by row, as they go into the arena; a copy only if need be."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def bind_tensors(model: ModelSpec, tensors: Sequence[Tensor]) -> tuple[int, list[StoredInput]]:
    """Check the tensors of a request against a model's inputs.

    Returns:
        The number of rows, and their bytes with the views that they go to.

    Raises:
        InvalidRequest: if an input is missing, unknown, repeated, or of a wrong type or shape.
    """
    given = _by_name(tensors, model.inputs)
    stored: list[StoredInput] = []
    rows = -1
    for spec, view in zip(model.inputs, model.views, strict=True):
        tensor = given[spec.name]
        _check(tensor, spec)
        if rows == -1:
            rows = tensor.shape[0]
        elif rows != tensor.shape[0]:
            raise InvalidRequest(
                f"input {spec.name!r} has {tensor.shape[0]} rows, {model.inputs[0].name!r} {rows}"
            )
        assert tensor.array is not None
        stored.append((view, raw_rows(tensor.array)))
    return rows, stored


def _by_name(tensors: Sequence[Tensor], expected: Sequence[TensorSpec]) -> dict[str, Tensor]:
    given = {tensor.name: tensor for tensor in tensors}
    if len(given) != len(tensors):
        raise InvalidRequest("an input is given twice")
    if len(given) != len(expected) or any(spec.name not in given for spec in expected):
        raise InvalidRequest(
            f"the model takes the inputs {[spec.name for spec in expected]}, "
            f"the request has {list(given)}"
        )
    return given


def _check(tensor: Tensor, spec: TensorSpec) -> None:
    if tensor.datatype != spec.datatype:
        raise InvalidRequest(
            f"input {spec.name!r} is {spec.datatype}, the request has {tensor.datatype}"
        )
    if len(tensor.shape) == 0 or tuple(tensor.shape[1:]) != spec.shape:
        raise InvalidRequest(
            f"input {spec.name!r} has shape {[-1, *spec.shape]}, "
            f"the request has {list(tensor.shape)}"
        )
    _check_rows(tensor)


def _check_rows(tensor: Tensor) -> None:
    if tensor.shape[0] == 0:
        raise InvalidRequest(f"input {tensor.name!r} has zero rows, send at least one")


async def bind_images(
    model: ModelSpec,
    tensors: Sequence[Tensor],
    threads: Executor,
    max_pixels: int,
    room: MemoryBudget,
) -> tuple[int, list[StoredInput]]:
    """Check and prepare the images of a request.

    Args:
        model: one that takes images.
        tensors: one input ``image``: BYTES [n], encoded, or UINT8 [n, height, width, 3], RGB.
        threads: where images are decoded.
        max_pixels: the most pixels that an image may have.
        room: what prepared images take of it they give back when they are freed.

    Returns:
        The number of rows, and per preparation the bytes of uint8 [n, size, size, 3] with its view.

    Raises:
        InvalidRequest: if the input is not that, or an image can't be used.
        RequestTooLarge: if the images would take more than all of `room`.
        QueueFull: if they would take more than is left.
    """
    images = _images(_by_name(tensors, [_IMAGE_INPUT])[_IMAGE])
    preparations = [preparation for _, preparation in model.preparations]
    arrays = await prepare_images(images, preparations, threads, max_pixels, room)
    views = [view for view, _ in model.preparations]
    return len(images), list(zip(views, map(raw_rows, arrays), strict=True))


def _images(tensor: Tensor) -> Sequence[Encoded]:
    """The images of a tensor, encoded or as pixels."""
    if not tensor.shape:
        raise InvalidRequest(f"input {_IMAGE!r} has no batch dimension")
    _check_rows(tensor)
    if tensor.datatype == "BYTES" and len(tensor.elements) == tensor.shape[0]:
        return tensor.elements
    if tensor.datatype == "UINT8" and len(tensor.shape) == _IMAGE_DIMENSIONS:
        assert tensor.array is not None
        if tensor.array.size == 0:  # of these there could be endlessly many
            raise InvalidRequest(f"input {_IMAGE!r} has images without pixels: {tensor.shape}")
        return list(tensor.array.astype(np.uint8, copy=False))
    raise InvalidRequest(
        f"input {_IMAGE!r} is BYTES [-1] (encoded) or UINT8 [-1, height, width, 3] (RGB), "
        f"the request has {tensor.datatype} {list(tensor.shape)}"
    )
