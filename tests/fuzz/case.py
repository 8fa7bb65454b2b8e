"""One thing that a client does, and how bytes are damaged. Pure; everything comes from a seed."""

from __future__ import annotations

import random
from typing import NamedTuple

_INTERESTING = bytes([0, 1, 9, 10, 13, 32, 34, 44, 45, 47, 58, 91, 92, 93, 123, 125, 127, 128, 255])
TOKENS = (
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\0",
    b"-1",
    b"0",
    b"99999999999999999999",
    b"18446744073709551616",
    b"9223372036854775808",
    b"1e999",
    b"NaN",
    b"Infinity",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"[[",
    b"]]",
    b'"',
    b'\\"',
    b"\\ud800",
    b"\xed\xa0\x80",
    b"\xff\xff\xff\xff",
    b'"data":',
    b'"shape":',
    b'"inputs":',
    b'"binary_data_size":',
    b'"parameters":',
    b"Content-Length: 7\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"HTTP/1.1",
    b"GET / HTTP/1.1\r\n\r\n",
    b"%00",
    b"../",
    b"A" * 300,
)


class Case(NamedTuple):
    """What a client sends over HTTP.

    Attributes:
        kind: what is wrong with it.
        data: all the bytes.
        is_framed: whether it is one message whose end both sides see, which is to be answered;
            otherwise the client ends its side, and so must the server.
        is_head: whether the answer has no body.
        gives_up: how much of it is sent before the connection is reset; None for a patient client.
    """

    kind: str
    data: bytes
    is_framed: bool = True
    is_head: bool = False
    gives_up: int | None = None


def damage(rng: random.Random, whole: bytes) -> bytes:
    """Flip, overwrite, delete, insert, repeat or cut, a few times."""
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not data:
            break
        at = rng.randrange(len(data))
        match rng.randrange(8):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.choice(_INTERESTING)
            case 2:
                del data[at : at + rng.randint(1, 16)]
            case 3:
                data[at:at] = rng.randbytes(rng.randint(1, 8))
            case 4 | 5:
                data[at:at] = rng.choice(TOKENS)
            case 6:
                data[at:at] = data[at : at + rng.randint(1, 64)] * rng.choice((1, 1, 20))
            case _:
                del data[at + 1 :]
    return bytes(data)


def splice(rng: random.Random, one: bytes, other: bytes) -> bytes:
    """The beginning of one thing and the end of another."""
    return one[: rng.randint(0, len(one))] + other[rng.randint(0, len(other)) :]
