"""Tensors as specs describe them: datatypes and shapes, which may be variable.

Used in every process; pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from ensembled_client.wire import DTYPES

__all__ = ["TensorSpec", "symbols_of", "variable_symbols"]

_UINT8 = np.dtype(np.uint8)
#: Before each element of BYTES, its length is a uint32.
_LENGTH_BYTES = 4


class TensorSpec(msgspec.Struct, frozen=True, dict=True):
    """A tensor without its batch dimension: `datatype` is the protocol's name, e.g. ``FP32``.

    Attributes:
        shape: -1 at a variable dimension, whose size each row has for itself.
        max_shape: the largest sizes, for a tensor with variable dimensions; else empty.
        symbols: the name of each variable dimension, "" for fixed ones; equal names are equal
            sizes. For BYTES, a last one names the number of bytes. Empty for fixed tensors.
        max_bytes: for BYTES, the most bytes of a row in the protocol's encoding: the elements, each
            after its length (uint32).
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    max_shape: tuple[int, ...] = ()
    symbols: tuple[str, ...] = ()
    max_bytes: int = 0

    @cached_property
    def dtype(self) -> np.dtype[np.generic]:
        """NumPy's type of one stored element; BYTES are stored as their encoding."""
        return _UINT8 if self.datatype == "BYTES" else DTYPES[self.datatype]

    @cached_property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of the array that has space for any row."""
        return (self.max_bytes,) if self.datatype == "BYTES" else self.max_shape or self.shape

    @cached_property
    def elements(self) -> int:
        """Stored elements of the largest row."""
        return math.prod(self.stored_shape)

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of the largest row."""
        return self.elements * self.dtype.itemsize

    @cached_property
    def length_bytes(self) -> int:
        """For BYTES, the bytes that the lengths of a row's elements take: a row of empty ones."""
        return _LENGTH_BYTES * math.prod(self.shape)

    def sized(self, sizes: Mapping[str, int]) -> TensorSpec:
        """Return the spec with other largest sizes: those of `sizes`, by symbol."""
        if not self.symbols:
            return self
        symbols = self.symbols
        if self.datatype == "BYTES":
            return msgspec.structs.replace(self, max_bytes=sizes[symbols[-1]])
        largest = zip(self.shape, symbols, strict=True)
        bounds = tuple(sizes[symbol] if symbol else size for size, symbol in largest)
        return msgspec.structs.replace(self, max_shape=bounds)

    def without(self, axis: int) -> TensorSpec:
        """Return the spec without an axis, counted from the end."""

        def cut(sizes: tuple[Any, ...]) -> tuple[Any, ...]:
            return (*sizes[:axis], *sizes[len(sizes) + axis + 1 :]) if sizes else ()

        shape, largest = cut(self.shape), cut(self.max_shape)
        own = msgspec.structs.replace(
            self, shape=shape, max_shape=largest, symbols=cut(self.symbols)
        )
        is_fixed = not any(own.symbols)
        return msgspec.structs.replace(own, max_shape=(), symbols=()) if is_fixed else own

    def own_shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape of a row of these sizes, by symbol."""
        return self.sized(sizes).stored_shape if self.symbols else self.stored_shape

    def renamed(self, symbols: Mapping[str, str]) -> TensorSpec:
        """Return the spec with other names of its symbols."""
        own = tuple(symbols[symbol] if symbol else "" for symbol in self.symbols)
        return msgspec.structs.replace(self, symbols=own) if own else self

    @cached_property
    def limits(self) -> dict[str, int]:
        """The largest size of each symbol."""
        if not self.symbols:
            return {}
        is_text = self.datatype == "BYTES"
        largest = (*self.shape, self.max_bytes) if is_text else self.max_shape
        return {symbol: size for symbol, size in zip(self.symbols, largest, strict=True) if symbol}


def variable_symbols(name: str, shape: Sequence[int | str]) -> tuple[str, ...]:
    """Return `TensorSpec.symbols` of an input: for -1, a name of its own; for a name, that one."""
    symbols = tuple(
        size if isinstance(size, str) else f"{name}.{axis}" if size < 0 else ""
        for axis, size in enumerate(shape, start=1)
    )
    return symbols if any(symbols) else ()


def symbols_of(tensors: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Return the different symbols of tensors, in the order of their first appearance."""
    named = (symbol for tensor in tensors for symbol in tensor.symbols if symbol)
    return tuple(dict.fromkeys(named))
