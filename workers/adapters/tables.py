"""Tables as models of data frames take them: named columns, or one matrix.

Runs in workers and in inspection. Arrays by name flow in, one per column [rows], with text as bytes
in UTF-8; a pandas data frame, or the matrix, flows out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from ensembled_client.wire import DTYPES

Array = npt.NDArray[Any]

__all__ = ["Array", "MATRIX", "Column", "Table", "cores", "undeclared"]

#: The most bytes of a text, unless the configuration gives another number.
_TEXT_BYTES = 256
#: The input of a model whose features have no names.
MATRIX = "x"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        datatype: the protocol's name; BYTES for text.
        example: a value that the model accepts; None if it takes any.
        categories: of pandas' categorical type; None for another type.
    """

    name: str
    datatype: str
    example: Any = None
    categories: tuple[Any, ...] | None = None


class Table:
    """What a model takes: columns, or if there are none a matrix of `width` numbers per row.

    Attributes:
        inputs: datatype and shape of a row, by name.
        example: a row that the model accepts, by name, each [1, ...].
    """

    def __init__(self, columns: Sequence[Column], *, width: int, datatype: str) -> None:
        self.columns = tuple(columns)
        self.inputs: dict[str, tuple[Any, ...]] = {
            column.name: (column.datatype, (), *_most_bytes(column)) for column in columns
        } or {MATRIX: (datatype, (width,))}
        self.example = {
            column.name: _as_sent(column.datatype, column.example)
            for column in columns
            if column.example is not None
        }

    def rows(self, arrays: Mapping[str, Array]) -> Any:
        """Return a batch as libraries take it: a data frame, or the matrix.

        Raises:
            ValueError: if a text is not UTF-8.
        """
        if not self.columns:
            return arrays[MATRIX]
        return pd.DataFrame({one.name: _values(one, arrays[one.name]) for one in self.columns})


def cores() -> int:
    """Return the number of threads for a library: the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def undeclared(names: Sequence[str]) -> str:
    """Return the reason to refuse a model whose file does not tell the types of these columns."""
    listed = ", ".join(map(repr, names))
    entry = f"{names[0]}: {{datatype: BYTES, shape: []}}"
    return (
        f"does not tell whether {listed} {'is' if len(names) == 1 else 'are'} text or numbers: "
        f"declare each under the member's inputs, {entry} for text, or FP64, INT64 or BOOL"
    )


def _as_sent(datatype: str, value: Any) -> Array:
    if datatype == "BYTES":
        return np.array([str(value).encode()], object)
    return np.array([value], DTYPES[datatype])


def _most_bytes(column: Column) -> tuple[int, ...]:
    """The most bytes of a text, which is longer than any category that the model knows."""
    if column.datatype != "BYTES":
        return ()
    known = [str(one) for one in column.categories or [column.example or ""]]
    return (max(_TEXT_BYTES, *(2 * len(one.encode()) for one in known)),)


def _values(column: Column, array: Array) -> Any:
    values: Any = array
    if column.datatype == "BYTES":
        try:
            values = [text.decode() for text in array]
        except UnicodeDecodeError as wrong:
            raise ValueError(f"{column.name!r} is not text in UTF-8: {wrong}") from None
    if column.categories is None:
        return values
    return pd.Categorical(values, categories=column.categories)
