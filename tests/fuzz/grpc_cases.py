"""What clients send over gRPC, from a seed: well-framed messages, whatever is in them. Pure."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from ensembled_client.wire.messages import METHODS, message_class

from tests.fuzz.case import damage, splice
from tests.fuzz.documents import DATATYPES, NAMES, OUTPUTS, row_values
from tests.fuzz.http_cases import MAX_REQUEST_BYTES
from tests.fuzz.pictures import good, picture

_Request = message_class("ModelInferRequest")
_UNARY = sorted(METHODS - {"ModelStreamInfer"})
_DIMENSIONS = (-1, -(2**63), 0, 1, 2, 3, 2**31, 2**32, 2**48, 2**62, 2**63 - 1)
_FIELDS = ("bool_contents", "int_contents", "int64_contents", "uint_contents", "uint64_contents",
           "fp32_contents", "fp64_contents", "bytes_contents")  # fmt: skip


class Call(NamedTuple):
    """One call.

    Attributes:
        kind: what is wrong with it.
        method: of the service.
        messages: serialized; one, unless it is a stream.
        timeout_s: the call's deadline, None for a patient client.
        cancels: whether the client goes away instead of waiting.
    """

    kind: str
    method: str
    messages: list[bytes]
    timeout_s: float | None = None
    cancels: bool = False


def _draft(rng: random.Random) -> Any:
    """A request that is right."""
    rows = rng.choice((1, 1, 2, 5, 40))
    request = _Request(model_name=rng.choice(("all", "all", "a", "two", "numbers", "long")))
    columns = rng.choice((1, 2, 7, 64)) if request.model_name == "long" else 2
    names = {"x": ("FP32", [rows, columns])}
    if request.model_name == "two":
        names["y"] = ("INT16", [rows, 2, 2])
    is_typed = rng.random() < 0.4
    for name, (datatype, shape) in names.items():
        tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
        if name == "x":
            values = row_values(rng, rows, columns)
            if is_typed:
                tensor.contents.fp32_contents.extend(values.ravel().tolist())
            else:
                request.raw_input_contents.append(values.tobytes())
        elif is_typed:
            tensor.contents.int_contents.extend([rng.randint(-9, 9)] * (rows * 4))
        else:
            request.raw_input_contents.append(struct.pack("<h", 5) * (rows * 4))
    if rng.random() < 0.3:
        request.id = str(rng.randrange(1000))
    return request


def _photos(rng: random.Random) -> Any:
    images = [picture(rng) for _ in range(rng.choice((1, 1, 3)))]
    request = _Request(model_name="photos")
    tensor = request.inputs.add(name="image", datatype="BYTES", shape=[len(images)])
    if rng.random() < 0.5:
        tensor.contents.bytes_contents.extend(images)
    else:
        raw = b"".join(struct.pack("<I", len(image)) + image for image in images)
        request.raw_input_contents.append(raw if rng.random() < 0.5 else damage(rng, raw))
    return request


def _wrong_tensor(rng: random.Random) -> Any:
    request = _draft(rng)
    tensor = request.inputs[0]
    match rng.randrange(6):
        case 0:
            tensor.name = rng.choice(NAMES)
        case 1:
            tensor.datatype = rng.choice(DATATYPES)
        case 2 | 3:
            del tensor.shape[:]
            tensor.shape.extend(
                rng.choice(_DIMENSIONS) for _ in range(rng.choice((0, 1, 2, 2, 40)))
            )
        case 4:
            request.inputs.append(tensor)
        case _:
            del request.inputs[:]
    return request


def _wrong_contents(rng: random.Random) -> Any:
    request = _draft(rng)
    contents = request.inputs[0].contents
    match rng.randrange(5):
        case 0:
            field = rng.choice(_FIELDS)
            value = {"bytes_contents": b"x", "bool_contents": True}.get(field, 1)
            getattr(contents, field).extend([value] * rng.choice((1, 2, 100)))
        case 1:
            request.raw_input_contents.append(rng.randbytes(rng.choice((0, 7, 8, 16))))
        case 2:
            del request.raw_input_contents[:]
            contents.Clear()
        case 3:
            request.inputs[0].datatype = rng.choice(("INT8", "UINT8", "INT16"))
            contents.Clear()
            contents.int_contents.extend([2**31 - 1, -(2**31)])
        case _:
            contents.fp32_contents.extend([float("nan"), float("inf")])
    return request


def _wrong_parameters(rng: random.Random) -> Any:
    request = _draft(rng)
    names = ("timeout", "quorum", "members", "binary_data_output", "", "shared_memory_region", "x",
             "coverage", "quantiles")  # fmt: skip
    parameters = rng.choice((request.parameters, request.inputs[0].parameters))
    if rng.random() < 0.5:
        output = request.outputs.add(name=rng.choice(OUTPUTS))
        parameters = output.parameters
        names = ("classification", "shared_memory_region", "coverage", "quantiles")
    parameter = parameters[rng.choice(names)]
    match rng.randrange(5):
        case 0:
            parameter.int64_param = rng.choice((-1, 0, 1, 5, 2**63 - 1))
        case 1:
            parameter.string_param = rng.choice(("", "a", "a,b", "zz", "0.1,0.9", "x" * 3000))
        case 2:
            parameter.bool_param = rng.random() < 0.5
        case 3:
            parameter.double_param = rng.choice((0.5, float("nan"), 1e308))
        case _:
            pass
    return request


def _bytes(rng: random.Random) -> bytes:
    data: bytes = (_draft(rng) if rng.random() < 0.8 else _photos(rng)).SerializeToString()
    return data


def _infer(kind: str, request: Any) -> Call:
    return Call(f"gRPC {kind}", "ModelInfer", [request.SerializeToString()])


def _damaged(rng: random.Random) -> Call:
    whole = _bytes(rng)
    data = damage(rng, whole) if rng.random() < 0.8 else splice(rng, whole, _bytes(rng))
    return Call("gRPC damaged messages", "ModelInfer", [data])


def _odd_fields(rng: random.Random) -> Call:
    """What is valid on the wire, or nearly, and never written by a client."""
    whole = _bytes(rng)
    number = rng.randrange(1, 20)
    data = rng.choice(
        (
            whole + bytes([number << 3 & 0x7F | rng.randrange(8)]),
            whole + b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            whole + b"\x3a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80",
            whole + b"\x3a\x00" * rng.choice((1, 5000)),
            whole + b"\x0b" * rng.choice((1, 500)) + b"\x0c",
            whole * 2,
            b"\x0a\x03all" * 5000,
            b"\x2a\x00" * rng.choice((1, 5000)),
            b"\x1a\x02\xff\xfe" + whole,
        )
    )
    return Call("gRPC odd fields", "ModelInfer", [data])


def _noise(rng: random.Random) -> Call:
    method = rng.choice((*_UNARY, "NoSuchMethod", "SystemSharedMemoryStatus"))
    return Call("gRPC noise", method, [rng.randbytes(rng.randint(0, 60))])


def _too_large(rng: random.Random) -> Call:
    return Call("gRPC too large", "ModelInfer", [_bytes(rng) + bytes(MAX_REQUEST_BYTES)])


def _in_time(rng: random.Random) -> Call:
    timeout_s = rng.choice((0.000_001, 0.0005, 0.002, 0.01))
    return Call("gRPC deadlines", "ModelInfer", [_bytes(rng)], timeout_s=timeout_s)


def _cancelled(rng: random.Random) -> Call:
    return Call("gRPC cancelled", "ModelInfer", [_bytes(rng)], cancels=True)


def _stream(rng: random.Random) -> Call:
    messages = [
        _bytes(rng) if rng.random() < 0.5 else _damaged(rng).messages[0]
        for _ in range(rng.choice((0, 1, 3, 10)))
    ]
    return Call("gRPC streams", "ModelStreamInfer", messages, cancels=rng.random() < 0.3)


def _right(rng: random.Random) -> Call:
    if rng.random() < 0.2:
        request = _Request(model_name="photos")
        tensor = request.inputs.add(name="image", datatype="BYTES", shape=[1])
        tensor.contents.bytes_contents.append(rng.choice(good()))
        return _infer("right", request)
    return _infer("right", _draft(rng))


_MAKERS: tuple[tuple[int, Callable[[random.Random], Call]], ...] = (
    (10, _right),
    (12, lambda rng: _infer("names, shapes, types", _wrong_tensor(rng))),
    (10, lambda rng: _infer("contents", _wrong_contents(rng))),
    (8, lambda rng: _infer("parameters", _wrong_parameters(rng))),
    (8, lambda rng: _infer("images", _photos(rng))),
    (20, _damaged),
    (5, _odd_fields),
    (6, _noise),
    (1, _too_large),
    (5, _in_time),
    (6, _cancelled),
    (5, _stream),
)
_SHARES, _MAKE = zip(*_MAKERS, strict=True)


def grpc_call(rng: random.Random) -> Call:
    """One call."""
    (make,) = rng.choices(_MAKE, _SHARES)
    call: Call = make(rng)
    return call
