"""Tables as models of data frames take them: named columns, or one matrix.

Runs in workers and in inspection. Arrays by name flow in, one per column [rows], with text as bytes
in UTF-8; a pandas data frame, or a matrix of numbers, flows out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from ensembled_client.wire import DTYPES

Array = npt.NDArray[Any]

__all__ = ["MATRIX", "NUMBER", "Array", "Column", "Table", "cores", "undeclared"]

#: The most bytes of a text, unless the configuration gives another number.
_TEXT_BYTES = 256
#: Of all numbers, for every library, so that models of one table have equal inputs; what a library
#: computes with FP32 it converts itself. Missing numbers are NaN.
NUMBER = "FP64"
#: The input of a model whose features have no names.
MATRIX = "x"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        datatype: the protocol's name; BYTES for text.
        example: a value that the model accepts; None if it takes any.
        codes: of categories, by category; None for a column without. Any other value is missing.
        key: from a value to its category in `codes`.
        is_closed: whether a value without a code is an error instead, unless it is an empty text.
    """

    name: str
    datatype: str
    example: Any = None
    codes: Mapping[Any, int] | None = None
    key: Callable[[Any], Any] = lambda value: value
    is_closed: bool = False


class Table:
    """What a model takes: columns, or if there are none a matrix of `width` numbers per row.

    Attributes:
        inputs: datatype and shape of a row, by name.
        example: a row that the model accepts, by name, each [1, ...].
    """

    def __init__(self, columns: Sequence[Column], *, width: int) -> None:
        self.columns = tuple(columns)
        self.inputs: dict[str, tuple[Any, ...]] = {
            column.name: (column.datatype, (), *_most_bytes(column)) for column in columns
        } or {MATRIX: (NUMBER, (width,))}
        self.example = {
            column.name: _as_sent(column.datatype, column.example) for column in columns
        } or {MATRIX: np.zeros((1, width), DTYPES[NUMBER])}

    def frame(self, arrays: Mapping[str, Array]) -> Any:
        """Return a batch as a data frame, or the matrix.

        Raises:
            ValueError: if a text is not UTF-8.
        """
        if not self.columns:
            return arrays[MATRIX]
        return pd.DataFrame({one.name: _values(one, arrays[one.name]) for one in self.columns})

    def numbers(self, arrays: Mapping[str, Array], dtype: npt.DTypeLike) -> Array:
        """Return a batch as a matrix [rows, columns], with codes for categories, NaN for none.

        Raises:
            ValueError: if a text is not UTF-8, or a category unknown where that is an error.
        """
        if not self.columns:
            return arrays[MATRIX]
        columns = [
            _values(one, arrays[one.name])
            if one.codes is None
            else _codes(one, _values(one, arrays[one.name]))
            for one in self.columns
        ]
        return np.stack([np.asarray(column, dtype) for column in columns], axis=1)


def cores() -> int:
    """Return the number of threads for a library: the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def undeclared(names: Sequence[str]) -> str:
    """Return the reason to refuse a model whose file does not tell the types of these columns."""
    listed = ", ".join(map(repr, names))
    entry = f"{names[0]}: {{datatype: BYTES, shape: []}}"
    return (
        f"does not tell whether {listed} {'is' if len(names) == 1 else 'are'} text or numbers: "
        f"declare each under the member's inputs, {entry} for text, FP64 for numbers"
    )


def _as_sent(datatype: str, value: Any) -> Array:
    if datatype == "BYTES":
        return np.array([str(value or "").encode()], object)
    return np.array([value or 0], DTYPES[datatype])


def _most_bytes(column: Column) -> tuple[int, ...]:
    """The most bytes of a text: more than any category that the model knows."""
    if column.datatype != "BYTES":
        return ()
    known = [str(one) for one in column.codes or [column.example or ""]]
    return (max(_TEXT_BYTES, *(2 * len(one.encode()) for one in known)),)


def _values(column: Column, array: Array) -> Any:
    if column.datatype != "BYTES":
        return array
    try:
        return [text.decode() for text in array]
    except UnicodeDecodeError as wrong:
        raise ValueError(f"{column.name!r} is not text in UTF-8: {wrong}") from None


def _codes(column: Column, values: Any) -> list[float]:
    assert column.codes is not None
    codes = [column.codes.get(column.key(value), math.nan) for value in values]
    if column.is_closed:
        for value, code in zip(values, codes, strict=True):
            if math.isnan(code) and value != "":
                raise ValueError(f"{column.name!r} has no category {value!r}")
    return codes
