"""From what callers have to a request's tensors. Pure but for image files that are read.

What a model takes is in its metadata, as the server tells it; rows alone get a batch dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ensembled_client.errors import RequestRejected
from ensembled_client.images import IMAGE, image_input
from ensembled_client.wire import DTYPES, RawTensor, cast, encode_array, join_elements

__all__ = ["Tensor", "tensors_for"]


@dataclass(frozen=True)
class Tensor(RawTensor):
    """An input on its way.

    Attributes:
        row_ends: for BYTES where each of the n rows ends in `data`; None if all have one size.
    """

    row_ends: tuple[int, ...] | None = None

    @property
    def row_count(self) -> int:
        """How many rows it has."""
        return self.shape[0]

    def end_of(self, row: int) -> int:
        """Return where a row ends in `data`; row -1 ends at 0."""
        if self.row_ends is not None:
            return self.row_ends[row] if row >= 0 else 0
        return (row + 1) * (len(self.data) // self.row_count)

    def rows(self, start: int, stop: int) -> Tensor:
        """Return the rows [start, stop); they share the memory of this tensor."""
        begin, end = self.end_of(start - 1), self.end_of(stop - 1)
        ends = self.row_ends and tuple(at - begin for at in self.row_ends[start:stop])
        shape = (stop - start, *self.shape[1:])
        return Tensor(self.name, self.datatype, shape, memoryview(self.data)[begin:end], ends)


def tensors_for(metadata: Mapping[str, Any], x: Any) -> tuple[Tensor, ...]:
    """Turn what a caller gave into the inputs of a model.

    Args:
        metadata: the model's, as the server tells it.
        x: see `EnsembleClient.predict`.

    Raises:
        RequestRejected: if it does not fit the model.
        OSError: if an image file can't be read.
    """
    inputs = {tensor["name"]: tensor for tensor in metadata["inputs"]}
    # The first look is for speed: asking for a Mapping takes longer.
    if isinstance(x, np.ndarray) or not isinstance(x, Mapping):
        if len(inputs) != 1:
            raise RequestRejected(f"the model takes the inputs {list(inputs)}: give a mapping")
        x = {next(iter(inputs)): x}
    if x.keys() != inputs.keys():
        raise RequestRejected(f"the model takes the inputs {list(inputs)}, not {list(x)}")
    # In the model's order, so that equal requests are equal bytes.
    return tuple(_tensor(described, x[name]) for name, described in inputs.items())


def _tensor(described: Mapping[str, Any], value: Any) -> Tensor:
    name, datatype = described["name"], described["datatype"]
    if datatype != "BYTES":
        return _numbers(described, value)
    if name != IMAGE:
        return _texts(described, value)
    images = image_input(value)
    if isinstance(images, list):
        return _bytes_tensor(IMAGE, (len(images),), images)
    return Tensor(IMAGE, "UINT8", images.shape, encode_array(images))


def _numbers(described: Mapping[str, Any], value: Any) -> Tensor:
    """One fixed-size input; a row alone gets its batch dimension."""
    name, datatype = described["name"], described["datatype"]
    if datatype not in DTYPES:
        raise RequestRejected(f"input {name!r}: this client has no datatype {datatype}")
    try:
        array = np.asarray(value)
        converted = cast(array, datatype)
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestRejected(f"input {name!r} is not {datatype}: {error}") from None
    shape = _shape(described, array.shape)
    return Tensor(name, datatype, shape, encode_array(converted))


def _texts(described: Mapping[str, Any], value: Any) -> Tensor:
    """One input of texts or bytes."""
    name = described["name"]
    array = np.asarray(value, object)
    elements = [one.encode() if isinstance(one, str) else one for one in array.ravel()]
    if not all(isinstance(one, bytes) for one in elements):
        raise RequestRejected(f"input {name!r} is texts or bytes")
    return _bytes_tensor(name, _shape(described, array.shape), elements)


def _bytes_tensor(name: str, shape: tuple[int, ...], elements: Sequence[bytes]) -> Tensor:
    per_row = max(1, len(elements) // max(1, shape[0]))
    ends = np.cumsum([4 + len(element) for element in elements])[per_row - 1 :: per_row]
    return Tensor(name, "BYTES", shape, join_elements(elements), tuple(ends.tolist()))


def _shape(described: Mapping[str, Any], given: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with the batch dimension, checked."""
    wanted = described["shape"]
    shape = (1, *given) if len(given) == len(wanted) - 1 else given
    if len(shape) != len(wanted) or any(
        size not in {-1, got} for size, got in zip(wanted[1:], shape[1:], strict=True)
    ):
        raise RequestRejected(
            f"input {described['name']!r} has shape {list(wanted)}, not {list(given)}"
        )
    return shape
