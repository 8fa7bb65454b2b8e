"""Compressed bodies over HTTP: requests inflated within a limit, answers compressed on request.

Runs in the front-end, on the event loop or in its threads. Compressed chunks go in as they
arrive, and what they hold comes out; a body that would inflate beyond the limit is refused when
it gets there, so that one which is small on the wire can't fill the memory. `deflate` means the
format of zlib; the bare one, which some clients send by that name, is read as well.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Any

from server.errors import InvalidRequest, RequestTooLarge, UnsupportedMediaType

__all__ = [
    "ENCODINGS",
    "LEAST_BYTES",
    "Inflater",
    "compress_if_worth",
    "preferred",
    "read_encoding",
]

ENCODINGS = ("gzip", "deflate")
#: Smaller answers are sent as they are.
LEAST_BYTES = 4096

_GZIP, _ZLIB, _BARE = zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS
_STEP_BYTES = 1 << 17
_WINDOW_BYTES = 1 << 14
_MAX_MEMBERS = 1 << 12
_SAMPLE_BYTES = 1 << 14
_LEVEL = 1
_LEAST_GAIN = 0.3
_ALIASES = {"": "", "identity": "", "x-gzip": "gzip"} | {name: name for name in ENCODINGS}


def read_encoding(header: bytes | None) -> str:
    """The encoding that a request's Content-Encoding names, "" for none.

    Raises:
        UnsupportedMediaType: if it is not one that we read.
    """
    if header is None:
        return ""
    name = header.decode("latin-1").strip().lower()
    if name not in _ALIASES:
        raise UnsupportedMediaType(
            f"Content-Encoding {name!r} is not supported, use {' or '.join(ENCODINGS)} or none"
        )
    return _ALIASES[name]


class Inflater:
    """One compressed body.

    Args:
        encoding: one of `ENCODINGS`.
        limit: the most bytes that it may inflate to.
    """

    def __init__(self, encoding: str, limit: int) -> None:
        self._encoding = encoding
        self._limit = limit
        self._stream: Any = zlib.decompressobj(_GZIP) if encoding == "gzip" else None
        self._fed = b""
        self._position = 0
        self._members = 1
        self._out = bytearray()

    @property
    def held_bytes(self) -> int:
        """What was fed and is not inflated, and what it has inflated to."""
        return len(self._fed) - self._position + len(self._out)

    def feed(self, chunk: bytes) -> None:
        """Take the next chunk; `work` inflates it."""
        self._fed = self._fed[self._position :] + chunk
        self._position = 0

    def work(self, steps: int | None = None) -> bool:
        """Inflate what was fed; may run in a thread.

        Args:
            steps: how many steps of less than a millisecond at most.

        Returns:
            Whether all was inflated.

        Raises:
            InvalidRequest: if it is not of this encoding.
            RequestTooLarge: if it inflates beyond the limit.
        """
        try:
            while steps is None or steps > 0:
                if not self._step():
                    return True
                steps = steps - 1 if steps is not None else None
        except zlib.error as error:
            raise InvalidRequest(f"the body is not {self._encoding}: {error}") from None
        return False

    def finish(self) -> bytearray:
        """Return the whole body.

        Raises:
            InvalidRequest: if it ends too early.
        """
        if self._stream is None or not self._stream.eof:
            raise InvalidRequest(f"the {self._encoding} body ends too early")
        return self._out

    def _step(self) -> bool:
        """Inflate some more; False if there is nothing to inflate."""
        window = self._fed[self._position : self._position + _WINDOW_BYTES]
        if self._stream is None:
            if len(window) < 2:  # too short to tell
                return False
            self._stream = zlib.decompressobj(_ZLIB if _is_zlib(window) else _BARE)
        elif self._stream.eof:
            if not window:
                return False
            self._begin_member()
        room = self._limit - len(self._out)
        out = self._stream.decompress(window, min(room + 1, _STEP_BYTES))
        left = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
        self._position += len(window) - len(left)
        if len(out) > room:
            raise RequestTooLarge(f"the body inflates beyond the limit of {self._limit} bytes")
        self._out += out
        # Nothing in and nothing out: all that is left inside waits for the next chunk.
        return bool(out) or len(left) < len(window)

    def _begin_member(self) -> None:
        """Begin the next member of a gzip file that has several."""
        self._members += 1
        if self._encoding != "gzip":
            raise InvalidRequest(f"the body goes on after the end of its {self._encoding} data")
        if self._members > _MAX_MEMBERS:
            raise InvalidRequest(f"the gzip body has more than {_MAX_MEMBERS} members")
        self._stream = zlib.decompressobj(_GZIP)


def _is_zlib(start: bytes) -> bool:
    return start[0] & 0x0F == zlib.DEFLATED and (start[0] << 8 | start[1]) % 31 == 0


@lru_cache(maxsize=256)
def preferred(accept: bytes) -> str:
    """The encoding of answers that an Accept-Encoding prefers among ours, "" for none."""
    weights: dict[str, float] = {}
    for part in accept.decode("latin-1").lower().split(","):
        name, *parameters = (text.strip() for text in part.split(";"))
        weights[_ALIASES.get(name, name)] = _weight(parameters)
    default = weights.get("*", 0.0)
    best = max(ENCODINGS, key=lambda name: weights.get(name, default))
    weight = weights.get(best, default)
    # Nothing said of it, what is not encoded is as good as the rest, and comes last.
    return best if weight > 0 and weight >= weights.get("", 0.0) else ""


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value) if 0 <= float(value) <= 1 else 0.0
            except ValueError:
                return 0.0
    return 1.0


def compress_if_worth(body: bytes, encoding: str) -> bytes | None:
    """Compress an answer quickly, unless it would not get much smaller; may run in a thread.

    Raw numbers mostly don't, which a sample of them shows.
    """
    middle = max(0, (len(body) - _SAMPLE_BYTES) // 2)
    sample = body[middle : middle + _SAMPLE_BYTES]
    if len(zlib.compress(sample, _LEVEL)) > len(sample) * (1 - _LEAST_GAIN):
        return None
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP if encoding == "gzip" else _ZLIB)
    return stream.compress(body) + stream.flush()
