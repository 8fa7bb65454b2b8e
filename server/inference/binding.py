"""Binds the tensors of a request to the views of the arena that its members read.

Runs in the front-end, under every protocol. Decoded tensors flow in; once names, datatypes and
shapes are checked, what is copied into the arena flows out. Images are prepared in threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import numpy.typing as npt
from ensembled_client.wire import join_elements

from server.engine.memory_budget import MemoryBudget
from server.engine.request import StoredInput
from server.errors import InvalidRequest
from server.inference.images import EncodedImage, Pixels, preprocess_images
from server.inference.lengths import may_vary
from server.inference.outputs import member_names
from server.inference.spec import ModelSpec
from server.inference.tensors import InputTensor
from workers.runtime.spec import TensorSpec

__all__ = ["bind_images", "bind_tensors"]

_IMAGE_DIMENSIONS = 4
_ALL = -1


def bind_tensors(
    model: ModelSpec, tensors: Sequence[InputTensor], members: int = _ALL
) -> tuple[int, list[StoredInput]]:
    """Check the tensors of a request against the inputs of a model, or of some of its members.

    Inputs that only other members need may be absent; they are checked, but not stored.

    Returns the number of rows, and per input its view of the arena with the bytes; images are for
    `bind_images`. Raises `InvalidRequest` if an input is missing, unknown, repeated, or of a wrong
    type or shape.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    if len(by_name) != len(tensors):
        raise InvalidRequest("an input is given twice")
    if len(by_name) != len(model.inputs) or any(
        one.tensor.name not in by_name for one in model.inputs
    ):
        _check_names(model, by_name, members)
    stored: list[StoredInput] = []
    first, rows = "", -1
    for one in model.inputs:
        name = one.tensor.name
        tensor = by_name.get(name)
        if tensor is None:
            continue
        if one.is_image:
            _check_images(tensor)
        else:
            _check(tensor, one.tensor)
            if one.members & members:
                stored.append((one.views[0].view, _encoded(tensor)))
        if rows == -1:
            first, rows = name, tensor.shape[0]
        elif rows != tensor.shape[0]:
            raise InvalidRequest(f"input {name!r} has {tensor.shape[0]} rows, {first!r} {rows}")
    return rows, stored


def _encoded(tensor: InputTensor) -> memoryview:
    """The bytes of a tensor, row by row; texts as on the wire."""
    if tensor.array is None:
        return memoryview(join_elements(map(bytes, tensor.elements)))
    return _raw(tensor.array)


def _raw(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of an array, row by row; a copy only if it is not contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _check_names(model: ModelSpec, given: Mapping[str, InputTensor], members: int) -> None:
    """Raise `InvalidRequest` if an input is missing that the members need, or is unknown."""
    names = [one.tensor.name for one in model.inputs]
    problems = [*_missing(model, given, members)]
    problems += [f"{name!r} is none of them" for name in given if name not in names]
    if problems:
        text = f"the model takes the inputs {names}, the request has {list(given)}"
        raise InvalidRequest("; ".join([text, *problems]))


def _missing(model: ModelSpec, given: Mapping[str, InputTensor], members: int) -> Iterator[str]:
    mask = model.served.spec.mask
    for one in model.inputs:
        is_absent = one.tensor.name not in given and not one.is_optional
        if is_absent and (needed := one.members & members):
            names = ", ".join(member_names(model, needed))
            whose = "" if one.members == mask else f" (needed by {names})"
            yield f"{one.tensor.name!r}{whose} is missing"


def _check(tensor: InputTensor, spec: TensorSpec) -> None:
    if tensor.datatype != spec.datatype:
        raise InvalidRequest(
            f"input {spec.name!r} is {spec.datatype}, the request has {tensor.datatype}"
        )
    shape = tuple(tensor.shape[1:])
    if len(tensor.shape) == 0 or (shape != spec.shape and not may_vary(shape, spec)):
        raise InvalidRequest(
            f"input {spec.name!r} has shape {[-1, *spec.shape]}, "
            f"the request has {list(tensor.shape)}"
        )
    _check_rows(tensor)


def _check_rows(tensor: InputTensor) -> None:
    if tensor.shape[0] == 0:
        raise InvalidRequest(f"input {tensor.name!r} has zero rows, send at least one")


def _check_images(tensor: InputTensor) -> None:
    """Raise `InvalidRequest` unless a tensor holds images: BYTES or UINT8, see `bind_images`."""
    if not tensor.shape:
        raise InvalidRequest(f"input {tensor.name!r} has no batch dimension")
    _check_rows(tensor)
    if tensor.datatype == "BYTES" and len(tensor.elements) == tensor.shape[0]:
        return
    if tensor.datatype != "UINT8" or len(tensor.shape) != _IMAGE_DIMENSIONS:
        raise InvalidRequest(
            f"input {tensor.name!r} is BYTES [-1] (encoded) or UINT8 [-1, height, width, 3] "
            f"(RGB), the request has {tensor.datatype} {list(tensor.shape)}"
        )
    assert tensor.array is not None
    if tensor.array.size == 0:  # of these there could be endlessly many
        raise InvalidRequest(f"input {tensor.name!r} has images without pixels: {tensor.shape}")


async def bind_images(
    model: ModelSpec,
    tensors: Sequence[InputTensor],
    members: int = _ALL,
    *,
    threads: Executor,
    max_pixels: int,
    budget: MemoryBudget,
) -> list[StoredInput]:
    """Preprocess the images of a request that `bind_tensors` has checked, for some members.

    They are BYTES [n], encoded, or UINT8 [n, height, width, 3], RGB. Returns per preparation its
    view of the arena with the bytes of uint8 [n, side, side, 3]. Budget and errors are those of
    `preprocess_images`.
    """
    stored: list[StoredInput] = []
    for one in model.inputs:
        wanted = {
            view.view: view.preparation
            for view in one.views
            if view.preparation is not None and view.members & members
        }
        if wanted:
            (tensor,) = [tensor for tensor in tensors if tensor.name == one.tensor.name]
            arrays = await preprocess_images(
                _images(tensor), list(wanted.values()), threads, max_pixels, budget
            )
            stored += zip(wanted, map(_raw, arrays), strict=True)
    return stored


def _images(tensor: InputTensor) -> Sequence[EncodedImage | Pixels]:
    if tensor.datatype == "BYTES":
        return tensor.elements
    assert tensor.array is not None
    return list(tensor.array.astype(np.uint8, copy=False))
