"""Images as callers have them, to an input named `image`. Runs in the caller's process.

It reads files. Encoded images stay as they are (BYTES; the server decodes them), pixels become one
UINT8 tensor. Pillow is not needed: images of its own are known by their methods.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ensembled_client.errors import RequestRejected
from ensembled_client.wire import Array

__all__ = ["IMAGE", "image_input"]

#: The name of an image model's input.
IMAGE = "image"

_KINDS = "a path, encoded bytes, a PIL image or a uint8 array"


def image_input(value: Any) -> Array | list[bytes]:
    """Return images as one uint8 array [n, height, width, 3] (RGB), or as n encoded images.

    Args:
        value: a path, encoded bytes, a PIL image, a uint8 array [height, width, 3] or
            [n, height, width, 3], or a sequence of those.

    Raises:
        RequestRejected: if it is none of these, or arrays of different sizes.
        OSError: if a file can't be read.
    """
    if isinstance(value, np.ndarray):
        return _pixels(value if value.ndim == 4 else value[np.newaxis])
    if _is_one(value):
        value = [value]
    if not isinstance(value, Sequence) or not value:
        raise RequestRejected(f"an image is {_KINDS}, or a sequence of those, not {_name(value)}")
    images = [_to_pixels(one) if _is_pillow(one) else one for one in value]
    if all(isinstance(one, np.ndarray) for one in images):
        if len({one.shape for one in images}) == 1:
            return _pixels(np.stack(images))
        if not all(_is_pillow(one) for one in value):
            raise RequestRejected("images of different sizes can't be one array: send them alone")
    return [_encoded(one) for one in value]


def _is_one(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike, bytes, bytearray, memoryview)) or _is_pillow(value)


def _is_pillow(value: Any) -> bool:
    return callable(getattr(value, "convert", None)) and callable(getattr(value, "save", None))


def _to_pixels(image: Any) -> Array:
    return np.asarray(image.convert("RGB"))


def _pixels(array: Array) -> Array:
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
        raise RequestRejected(
            "images as arrays are uint8 [height, width, 3] or [n, height, width, 3] (RGB), "
            f"not {array.dtype} {list(array.shape)}"
        )
    return array


def _encoded(image: Any) -> bytes:
    if isinstance(image, (str, os.PathLike)):
        return Path(image).read_bytes()
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if _is_pillow(image):
        file = io.BytesIO()
        image.convert("RGB").save(file, "PNG")  # without loss
        return file.getvalue()
    raise RequestRejected(
        f"encoded images and {_name(image)} can't be one batch: an image is {_KINDS}"
    )


def _name(value: Any) -> str:
    return "an empty sequence" if isinstance(value, Sequence) else type(value).__name__
