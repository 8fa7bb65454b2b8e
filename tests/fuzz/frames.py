"""HTTP/2 as a gRPC client writes it, and broken frames of it. Pure."""

from __future__ import annotations

import random
import struct

from ensembled_client.wire.messages import SERVICE

from tests.fuzz.case import Case, damage
from tests.fuzz.grpc_cases import grpc_call

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW, _MORE = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    told = len(payload) if length is None else length
    return struct.pack(">I", told)[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _field(name: bytes, value: bytes) -> bytes:
    """A header field, literally and without an index (RFC 7541, section 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def _head(method: bytes) -> bytes:
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/%b/%b" % (SERVICE.encode(), method),
        b":authority": b"fuzz",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    }
    return b"".join(_field(name, value) for name, value in fields.items())


def call_frames(method: bytes, message: bytes) -> bytes:
    """A connection of one call, as bytes."""
    body = struct.pack(">BI", 0, len(message)) + message
    head = frame(_HEADERS, _END_HEADERS, 1, _head(method))
    return PREFACE + frame(_SETTINGS, 0, 0, b"") + head + frame(_DATA, _END_STREAM, 1, body)


def frames_case(rng: random.Random) -> Case:
    """A connection of one call, or of what might be one."""
    message = grpc_call(rng).messages[:1]
    body = b"".join(struct.pack(">BI", 0, len(one)) + one for one in message)[:60_000]
    frames = [
        frame(_SETTINGS, 0, 0, b""),
        frame(_HEADERS, _END_HEADERS, 1, _head(b"ModelInfer")),
        *(frame(_DATA, 0, 1, body[i : i + 16_000]) for i in range(0, len(body), 16_000)),
        frame(_DATA, _END_STREAM, 1, b""),
    ]
    at = rng.randrange(len(frames))
    odd = (
        frame(rng.randrange(256), rng.randrange(256), rng.choice((0, 1, 2, 2**31 - 1)), b"x" * 9),
        frame(_DATA, 0, 1, b"x", length=2**24 - 1),
        frame(_DATA, 0, 7, b"a stream that was never opened"),
        frame(_DATA, 8, 1, b"\xff"),
        frame(_RESET, 0, 1, b"\0\0\0\x08"),
        frame(_SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff"),
        frame(_SETTINGS, 0, 0, b"odd"),
        frame(_PING, 0, 0, b"12345678") * rng.choice((1, 500)),
        frame(_GOAWAY, 0, 0, bytes(8)),
        frame(_WINDOW, 0, 0, b"\x7f\xff\xff\xff"),
        frame(_WINDOW, 0, 0, bytes(4)),
        frame(_MORE, 0, 1, b"headers that go on"),
        frame(_HEADERS, 0, 3, _head(b"ModelInfer")),
        frame(_HEADERS, _END_HEADERS, 3, b"\xff" * 40),
        frame(_HEADERS, _END_HEADERS, 3, _field(b"x", b"y" * 100) * 200),
        frame(_DATA, _END_STREAM, 1, b"\1\0\0\0\5" + b"abcde"),
        frame(_DATA, _END_STREAM, 1, b"\0\xff\xff\xff\xff"),
        frame(_RESET, 0, 1, b"\0\0\0\x08") + frame(_HEADERS, 5, 3, _head(b"ModelInfer")) * 50,
    )
    match rng.randrange(4):
        case 0:
            frames.insert(at, rng.choice(odd))
        case 1:
            frames[at] = rng.choice(odd)
        case 2:
            frames[at] = damage(rng, frames[at])
        case _:
            frames = frames[: at + 1]
    data = PREFACE + b"".join(frames)
    if rng.random() < 0.1:
        data = damage(rng, data)
    gives_up = len(data) if rng.random() < 0.2 else None
    return Case("gRPC broken frames", data, is_framed=False, gives_up=gives_up)
