"""What callers pass as a model's input, converted to the tensors of a request. Reads image files.

Encoded images stay as they are (BYTES; the server decodes them), pixels become one UINT8 tensor.
Pillow is not needed: its images are recognised by their methods.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ensembled_client.errors import RequestRejected
from ensembled_client.requests import RequestTensor
from ensembled_client.wire import DTYPES, Array, cast, encode_array, join_elements

__all__ = ["tensors_for"]

#: The name of an image model's input.
_IMAGE = "image"
_KINDS = "a path, encoded bytes, a PIL image or a uint8 array"


def tensors_for(metadata: Mapping[str, Any], x: Any) -> tuple[RequestTensor, ...]:
    """Return the inputs of a model, in its order; for `x` see `EnsembleClient.predict`.

    The server decides which of them are needed: some members need only theirs, and masks are
    optional.

    Raises RequestRejected if it does not fit, OSError if an image file can't be read.
    """
    inputs = {tensor["name"]: tensor for tensor in metadata["inputs"]}
    # The first check is for speed: isinstance of Mapping takes longer.
    if isinstance(x, np.ndarray) or not isinstance(x, Mapping):
        if len(inputs) != 1:
            raise RequestRejected(f"the model takes the inputs {list(inputs)}: give a mapping")
        x = {next(iter(inputs)): x}
    if x.keys() != inputs.keys() and not (x and x.keys() <= inputs.keys()):
        raise RequestRejected(f"the model takes the inputs {list(inputs)}, not {list(x)}")
    # In the model's order, so that equal requests are equal bytes.
    return tuple(_tensor(described, x[name]) for name, described in inputs.items() if name in x)


def _tensor(described: Mapping[str, Any], value: Any) -> RequestTensor:
    name, datatype = described["name"], described["datatype"]
    if datatype != "BYTES":
        return _number_tensor(described, value)
    if name != _IMAGE:
        return _text_tensor(described, value)
    images = _images(value)
    if isinstance(images, list):
        return _bytes_tensor(_IMAGE, (len(images),), images)
    return RequestTensor(_IMAGE, "UINT8", images.shape, encode_array(images))


def _number_tensor(described: Mapping[str, Any], value: Any) -> RequestTensor:
    name, datatype = described["name"], described["datatype"]
    if datatype not in DTYPES:
        raise RequestRejected(f"input {name!r}: this client has no datatype {datatype}")
    try:
        array = np.asarray(value)
        converted = cast(array, datatype)
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestRejected(f"input {name!r} is not {datatype}: {error}") from None
    shape = _batch_shape(described, array.shape)
    return RequestTensor(name, datatype, shape, encode_array(converted))


def _text_tensor(described: Mapping[str, Any], value: Any) -> RequestTensor:
    name = described["name"]
    array = np.asarray(value, object)
    elements = [one.encode() if isinstance(one, str) else one for one in array.ravel()]
    if not all(isinstance(one, bytes) for one in elements):
        raise RequestRejected(f"input {name!r} is texts or bytes")
    return _bytes_tensor(name, _batch_shape(described, array.shape), elements)


def _bytes_tensor(name: str, shape: tuple[int, ...], elements: Sequence[bytes]) -> RequestTensor:
    per_row = max(1, len(elements) // max(1, shape[0]))
    ends = np.cumsum([4 + len(element) for element in elements])[per_row - 1 :: per_row]
    return RequestTensor(name, "BYTES", shape, join_elements(elements), tuple(ends.tolist()))


def _batch_shape(described: Mapping[str, Any], given: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with its batch dimension, checked against the model's."""
    wanted = described["shape"]
    shape = (1, *given) if len(given) == len(wanted) - 1 else given
    if len(shape) != len(wanted) or any(
        size not in {-1, got} for size, got in zip(wanted[1:], shape[1:], strict=True)
    ):
        raise RequestRejected(
            f"input {described['name']!r} has shape {list(wanted)}, not {list(given)}"
        )
    return shape


def _images(value: Any) -> Array | list[bytes]:
    """Images as one uint8 array [n, height, width, 3] (RGB), or as n encoded images."""
    if isinstance(value, np.ndarray):
        return _checked_pixels(value if value.ndim == 4 else value[np.newaxis])
    if isinstance(value, (str, os.PathLike, bytes, bytearray, memoryview)) or _is_pillow(value):
        value = [value]
    if not isinstance(value, Sequence) or not value:
        raise RequestRejected(
            f"an image is {_KINDS}, or a sequence of those, not {_kind_of(value)}"
        )
    images = [np.asarray(one.convert("RGB")) if _is_pillow(one) else one for one in value]
    if all(isinstance(one, np.ndarray) for one in images):
        if len({one.shape for one in images}) == 1:
            return _checked_pixels(np.stack(images))
        if not all(_is_pillow(one) for one in value):
            raise RequestRejected("images of different sizes can't be one array: send them alone")
    return [_encoded_image(one) for one in value]


def _is_pillow(value: Any) -> bool:
    return callable(getattr(value, "convert", None)) and callable(getattr(value, "save", None))


def _checked_pixels(array: Array) -> Array:
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
        raise RequestRejected(
            "images as arrays are uint8 [height, width, 3] or [n, height, width, 3] (RGB), "
            f"not {array.dtype} {list(array.shape)}"
        )
    return array


def _encoded_image(image: Any) -> bytes:
    if isinstance(image, (str, os.PathLike)):
        return Path(image).read_bytes()
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if _is_pillow(image):
        file = io.BytesIO()
        image.convert("RGB").save(file, "PNG")  # without loss
        return file.getvalue()
    raise RequestRejected(
        f"encoded images and {_kind_of(image)} can't be one batch: an image is {_KINDS}"
    )


def _kind_of(value: Any) -> str:
    return "an empty sequence" if isinstance(value, Sequence) else type(value).__name__
