"""Reads from an ONNX file where its external weights are, without the `onnx` package.

Runs in the process that inspects or profiles, which loads no model, and in workers. The path of a
model flows in, the paths of its weights flow out. Only the fields on the way to them are looked at
(numbers from ``onnx.proto``), and weights within the file are skipped unread.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

__all__ = ["OnnxFileError", "external_files"]

#: By message, the fields to descend into, and the messages that these are.
_FIELDS = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_LOCATION = b"location"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
#: A model with more is no network; each takes about a microsecond.
_MAX_FIELDS = 10_000_000
_MAX_DEPTH = 100


class OnnxFileError(Exception):
    """A model keeps weights where it may not; the text says where."""


def external_files(path: Path) -> tuple[Path, ...]:
    """Return the files in an ONNX model's directory, or below, that hold weights.

    They need not exist. A damaged file has none: what is wrong with it, the runtime says best.

    Raises:
        OnnxFileError: if one of its locations is not below its directory.
        OSError: if it can't be read.
    """
    stat = path.stat()
    return _external_files(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(64)
def _external_files(path: Path, _mtime_ns: int, nbytes: int) -> tuple[Path, ...]:
    if nbytes == 0:  # which can't be mapped
        return ()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            locations = dict.fromkeys(_Reader(data).locations())
        except (IndexError, ValueError):
            return ()
    return tuple(_within(path.parent, location) for location in locations)


def _within(directory: Path, location: str) -> Path:
    """A location in a directory, as ONNX allows it."""
    plain = os.path.normpath(location)
    if (
        not location
        or "\0" in location
        or os.path.isabs(location)
        or plain.split(os.sep)[0] == os.pardir
    ):
        raise OnnxFileError(
            f"keeps weights in {location!r}, which is not in the directory of the model: "
            "save them beside it"
        )
    return directory / plain


class _Reader:
    """Walks through a serialized ModelProto."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._fields = 0

    def locations(self) -> Iterator[str]:
        """Yield the location of every external tensor."""
        return self._walk("model", 0, len(self._data), 0)

    def _walk(self, message: str, start: int, stop: int, depth: int) -> Iterator[str]:
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        wanted = _FIELDS[message]
        for number, begin, end in self._split(start, stop):
            inner = wanted.get(number)
            if inner == "entry":
                if (location := self._location(begin, end)) is not None:
                    yield location
            elif inner is not None and (
                inner != "node" or self._data.find(_LOCATION, begin, end) >= 0
            ):
                yield from self._walk(inner, begin, end, depth + 1)

    def _location(self, start: int, stop: int) -> str | None:
        """The value of an entry of a tensor's external data, if that is the location."""
        entry = {number: self._data[begin:end] for number, begin, end in self._split(start, stop)}
        if entry.get(_ENTRY_KEY) != _LOCATION:
            return None
        return os.fsdecode(entry.get(_ENTRY_VALUE, b""))

    def _split(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield number, start and stop of every field of a message that holds bytes."""
        position = start
        while position < stop:
            self._fields += 1
            if self._fields > _MAX_FIELDS:
                raise ValueError("too many fields")
            tag, position = self._varint(position)
            kind = tag & 7
            if kind == _BYTES:
                nbytes, position = self._varint(position)
                if nbytes > stop - position:
                    raise ValueError("a field goes past the end")
                yield tag >> 3, position, position + nbytes
                position += nbytes
            elif kind == _VARINT:
                _, position = self._varint(position)
            elif kind in (_FIXED32, _FIXED64):
                position += 4 if kind == _FIXED32 else 8
            else:
                raise ValueError("unknown wire type")
        if position != stop:
            raise ValueError("a field goes past the end")

    def _varint(self, position: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = self._data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
            shift += 7
            if shift > 63:
                raise ValueError("a number is too long")
