"""From what callers have to tensors of the Open Inference Protocol, and back. Pure but for files.

The binary tensor extension both ways: a body is a JSON header, then the raw little-endian tensors
in its order. Elements of BYTES have their length (uint32) before them.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ensembled_client.errors import RequestRejected, ServerFailure

__all__ = ["DTYPES", "Answer", "Tensor", "decode_answer", "encode_request", "tensors_for"]

#: NumPy's type for each fixed-size datatype of the protocol.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}

_IMAGE = "image"
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Tensor:
    """An input on its way: its header's fields, and its raw bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


@dataclass(frozen=True)
class Answer:
    """A decoded answer: the combined output, and the response's parameters.

    Attributes:
        output: [n, ...]; of bytes objects for BYTES.
        parameters: of the response.
    """

    output: npt.NDArray[Any]
    parameters: Mapping[str, Any]


def tensors_for(metadata: Mapping[str, Any], x: Any) -> list[Tensor]:
    """Turn what a caller gave into the inputs of a model.

    Args:
        metadata: the model's, as the server tells it.
        x: for a model with one input an array-like [n, ...], or one row of it; for several, a
            mapping of those by input name. For an image model a path, encoded bytes, a uint8
            array [height, width, 3] or [n, height, width, 3] (RGB), or a sequence of one kind.

    Raises:
        RequestRejected: if it does not fit the model.
        OSError: if an image file can't be read.
    """
    inputs = {tensor["name"]: tensor for tensor in metadata["inputs"]}
    if not isinstance(x, Mapping):
        if len(inputs) != 1:
            raise RequestRejected(f"the model takes the inputs {list(inputs)}: give a mapping")
        x = {next(iter(inputs)): x}
    if x.keys() != inputs.keys():
        raise RequestRejected(f"the model takes the inputs {list(inputs)}, not {list(x)}")
    return [
        _images(value)
        if (name, inputs[name]["datatype"]) == (_IMAGE, "BYTES")
        else _array(inputs[name], value)
        for name, value in x.items()
    ]


def _array(described: Mapping[str, Any], value: Any) -> Tensor:
    """One fixed-size input; a row alone gets its batch dimension."""
    name, datatype, shape = described["name"], described["datatype"], described["shape"]
    if datatype not in DTYPES:
        raise RequestRejected(f"input {name!r}: this client has no datatype {datatype}")
    try:
        array = np.asarray(value)
        converted = _convert(array, DTYPES[datatype])
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestRejected(f"input {name!r} is not {datatype}: {error}") from None
    if converted.ndim == len(shape) - 1:
        converted = converted[np.newaxis]
    wanted = tuple(shape[1:])
    if converted.ndim != len(shape) or any(
        size not in {-1, got} for size, got in zip(wanted, converted.shape[1:], strict=True)
    ):
        raise RequestRejected(f"input {name!r} has shape {list(shape)}, not {list(array.shape)}")
    return Tensor(name, datatype, converted.shape, _raw(converted))


def _convert(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Cast to the model's type: floats may lose digits, but nothing else may change."""
    if array.dtype.kind not in "biuf":
        raise TypeError(f"it holds {array.dtype}")
    if np.can_cast(array.dtype, dtype, "same_kind"):
        return array.astype(dtype, copy=False)
    with np.errstate(invalid="ignore"):
        converted = array.astype(dtype)
    if not (converted == array).all():
        raise ValueError(f"some of its values ({array.dtype}) would change")
    return converted


def _raw(array: npt.NDArray[Any]) -> memoryview | bytes:
    contiguous = np.ascontiguousarray(array)
    return contiguous.data.cast("B") if contiguous.size else b""


def _images(value: Any) -> Tensor:
    if isinstance(value, (str, os.PathLike, bytes, bytearray, memoryview)):
        value = [value]
    if isinstance(value, np.ndarray):
        return _pixels(value if value.ndim == 4 else value[np.newaxis])
    if not isinstance(value, Sequence) or not value:
        raise RequestRejected("an image is a path, bytes, a uint8 array, or a sequence of those")
    if all(isinstance(one, np.ndarray) for one in value):
        if len({one.shape for one in value}) > 1:
            raise RequestRejected("images of different sizes can't be one array: send them alone")
        return _pixels(np.stack(value))
    encoded = [_encoded(one) for one in value]
    data = b"".join(part for one in encoded for part in (_LENGTH.pack(len(one)), one))
    return Tensor(_IMAGE, "BYTES", (len(encoded),), data)


def _pixels(array: npt.NDArray[Any]) -> Tensor:
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
        raise RequestRejected(
            "images as arrays are uint8 [height, width, 3] or [n, height, width, 3] (RGB), "
            f"not {array.dtype} {list(array.shape)}"
        )
    return Tensor(_IMAGE, "UINT8", array.shape, _raw(array))


def _encoded(image: Any) -> bytes:
    if isinstance(image, (str, os.PathLike)):
        return Path(image).read_bytes()
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    raise RequestRejected(f"an image is a path, bytes or a uint8 array, not {type(image).__name__}")


def encode_request(
    tensors: Sequence[Tensor], *, timeout: float | None = None, classes: int = 0
) -> tuple[bytes, int]:
    """Return the body of an infer request that wants a raw answer, and the length of its JSON.

    Args:
        tensors: the inputs.
        timeout: the deadline in seconds from now, None for none.
        classes: how many of the best classes the answer should name, 0 for all values.

    Raises:
        RequestRejected: if the timeout is not above zero, or `classes` is negative.
    """
    if timeout is not None and not (0 < timeout < math.inf):
        raise RequestRejected(f"a timeout is a number of seconds above 0, not {timeout}")
    if classes < 0:
        raise RequestRejected(f"the number of classes is 1 or more, not {classes}")
    output: dict[str, Any] = {"binary_data": True}
    if classes:
        output["classification"] = classes
    header: dict[str, Any] = {
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.shape),
                "parameters": {"binary_data_size": len(tensor.data)},
            }
            for tensor in tensors
        ],
        "outputs": [{"name": "output", "parameters": output}],
    }
    if timeout is not None:
        header["parameters"] = {"timeout": max(1, round(timeout * 1e6))}
    text = json.dumps(header).encode()
    return b"".join([text, *(tensor.data for tensor in tensors)]), len(text)


def decode_answer(body: bytes, json_length: int | None) -> Answer:
    """Decode the body of an infer response.

    Args:
        body: of the response.
        json_length: the length of its JSON, None if it is all JSON.

    Raises:
        ServerFailure: if it is not what the protocol says.
    """
    try:
        document = json.loads(body[:json_length])
        rest = memoryview(body)[len(body) if json_length is None else json_length :]
        outputs: dict[str, npt.NDArray[Any]] = {}
        for described in document["outputs"]:
            size = described.get("parameters", {}).get("binary_data_size")
            raw = None if size is None else rest[:size]
            outputs[described["name"]] = _output(described, raw)
            rest = rest[size or 0 :]
        return Answer(outputs["output"], document.get("parameters", {}))
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ServerFailure(f"the server's answer can't be understood: {error!r}") from error


def _output(described: Mapping[str, Any], raw: memoryview | None) -> npt.NDArray[Any]:
    shape, datatype = described["shape"], described["datatype"]
    if datatype == "BYTES":
        texts = _split(raw) if raw is not None else [text.encode() for text in described["data"]]
        elements = np.empty(len(texts), object)
        elements[:] = texts
        return elements.reshape(shape)
    dtype = DTYPES[datatype]
    if raw is None:
        return np.array(described["data"], dtype).reshape(shape)
    return np.frombuffer(raw, dtype).reshape(shape)


def _split(raw: memoryview) -> list[bytes]:
    elements = []
    while raw:
        (length,) = _LENGTH.unpack_from(raw)
        element = bytes(raw[_LENGTH.size : _LENGTH.size + length])
        if len(element) != length:
            raise ValueError("a BYTES element is cut short")
        elements.append(element)
        raw = raw[_LENGTH.size + length :]
    return elements
