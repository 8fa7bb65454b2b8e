"""The arena: inputs, predictions and answers of the rows in flight, for one input signature.

Mapped by the front-end, the workers and the combiner. The arena is the truth; messages are
wake-ups. One slot holds one row::

    segment 0             segment 1             ...
    +---+---+---+---+     +---+---+---+---+
    | slot 0 .. S-1 |     | slot S .. 2S-1|         capacity = segments x S
    +---+---+---+---+     +---+---+---+---+
      |
      +-- views        the row's inputs                    written by the front-end
      +-- predictions  one area per output of a member     written by that member's worker
      +-- answer       the combined prediction             written by the combiner
      +-- cells        8 bytes each, one writer at a time:
            row, ensemble, expected, terms, closing        the front-end
            dims[symbol]                                   the front-end
            done[member]                                   the worker that holds the assignment
            ended, used                                    the combiner

A row's number is absolute and never reused: ``row = generation * capacity + slot``, so a slot's
cells apply to the row whose number they hold and to no other. The life of a slot::

    free --claim--> claimed (row = r) --assign--> predicted (done[m] = r, or -r: m failed on it)
      ^                                                        |
      |        every expected member done, or closing = r and none to wait for
      |                                                        v
      +--free-- copied out <--------------------- ended = r (answered) or -r (failed), used = mask

Rows with variable dimensions lie in the corner of their slot's views, as large as `dims` say; what
is beyond them is left from earlier rows. The arena has space for its length class: one signature
has an arena per class (`server.members.lengths`).

A slot is freed only when nobody uses it: it has no open assignment, the combiner has ended the row,
and the answer was copied out. Memory order: a payload is written before its cell, the cell before
the message that refers to it; the ring that carries the message has the barrier
(`workers.runtime.rings`).
"""

from __future__ import annotations

import itertools
import math
import mmap
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt
from ensembled_client.wire import DTYPES

from workers.runtime.spec import ArenaSpec, BlockSpec, EnsembleSpec, TensorSpec, symbols_of

__all__ = [
    "EARLY",
    "Arena",
    "Array",
    "Cells",
    "Masks",
    "Terms",
    "answer_stride",
    "arena_bytes",
    "bytes_per_row",
    "group_blocks",
    "unpack",
]

Array = npt.NDArray[np.generic]
Cells = npt.NDArray[np.int64]
Masks = npt.NDArray[np.uint64]

_ALIGNMENT = 64
_FRONT_END_CELLS = 5
_COMBINER_CELLS = 2
_SCORE_BYTES = 4

# The bits of a `terms` cell.
_QUORUM = 0xFF
_SCORES = 1 << 8
#: The bit of `Terms.early`.
EARLY = 1 << 9
_OUTPUTS = 1 << 10
_STAGE_SHIFT = 16
_STAGE = 0xFF


class Terms(msgspec.Struct, frozen=True):
    """The conditions on a row's answer; a `terms` cell holds them as an integer.

    Attributes:
        quorum: the fewest members that its answer may rest on, at least 1.
        scores: whether uncertainty scores are wanted.
        early: whether the row may be answered as soon as its best class is certain: the client
            wants that class and nothing else.
        stage: how many stages of the ensemble's cascade predict the row so far; 0 without a
            cascade, when all members do.
        outputs: whether the outputs beside the main one are wanted.
    """

    quorum: int
    scores: bool = False
    early: bool = False
    stage: int = 0
    outputs: bool = False

    def pack(self) -> int:
        """Return the value of the cell."""
        cell = self.quorum | self.stage << _STAGE_SHIFT
        flags = ((_SCORES, self.scores), (EARLY, self.early), (_OUTPUTS, self.outputs))
        return cell | sum(bit for bit, is_set in flags if is_set)


_unpacked: dict[int, Terms] = {}


def unpack(cell: int) -> Terms:
    """Return the terms in a cell; there are so few different ones that all are kept."""
    terms = _unpacked.get(cell)
    if terms is None:
        terms = _unpacked[cell] = Terms(
            quorum=cell & _QUORUM,
            scores=bool(cell & _SCORES),
            early=bool(cell & EARLY),
            stage=cell >> _STAGE_SHIFT & _STAGE,
            outputs=bool(cell & _OUTPUTS),
        )
    return terms


def answer_stride(ensembles: Sequence[EnsembleSpec]) -> int:
    """Return the bytes between the answers of adjacent slots: the largest one, in 8-byte cells."""
    return max(_answer_offsets(ensemble)[-1] for ensemble in ensembles)


def _answer_offsets(ensemble: EnsembleSpec) -> list[int]:
    """Return where each output of an answer begins, and where the last one ends."""
    sizes = [-(-output.row_bytes // 8) * 8 for output in ensemble.outputs]
    return [0, *itertools.accumulate(sizes)]


def _scores(ensembles: Sequence[EnsembleSpec]) -> int:
    """Return how many scores a slot has space for: as many as any ensemble has."""
    return max(len(one.scores) * one.score.elements for one in ensembles)


def group_blocks(areas: Sequence[TensorSpec]) -> tuple[BlockSpec, ...]:
    """Group areas with equal predictions (by the areas' numbers), so that rules see one array."""
    groups: dict[tuple[str, tuple[int, ...], tuple[str, ...]], list[int]] = {}
    for area, output in enumerate(areas):
        key = output.datatype, output.stored_shape, output.symbols
        groups.setdefault(key, []).append(area)
    return tuple(
        BlockSpec(tuple(group), datatype, shape) for (datatype, shape, _), group in groups.items()
    )


def bytes_per_row(
    views: Sequence[TensorSpec], blocks: Sequence[BlockSpec], ensembles: Sequence[EnsembleSpec]
) -> int:
    """Return the bytes of one slot, cells included."""
    members = len({member for ensemble in ensembles for member in ensemble.members})
    cells = 8 * (_FRONT_END_CELLS + _COMBINER_CELLS + members + len(symbols_of(views)))
    predictions = sum(len(block.areas) * block.row_bytes for block in blocks)
    inputs = sum(view.row_bytes for view in views)
    return (
        cells + inputs + predictions + answer_stride(ensembles) + _SCORE_BYTES * _scores(ensembles)
    )


def arena_bytes(spec: ArenaSpec) -> int:
    """Return the size of the arena in the shared memory, in bytes, alignment included."""
    layout = _Layout(None, 0)
    layout.arrays(spec)
    return layout.offset


class _Layout:
    """Allocates an arena's arrays one after another; without a buffer it only measures them."""

    def __init__(self, buffer: memoryview | None, offset: int) -> None:
        self._buffer = buffer
        self.offset = offset

    def allocate(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        dtype = np.dtype(dtype)
        nbytes = math.prod(shape) * dtype.itemsize
        offset = self.offset
        self.offset += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        if self._buffer is None:
            return np.empty(0, dtype)
        return np.ndarray(shape, dtype, self._buffer, offset)

    def arrays(self, spec: ArenaSpec) -> dict[str, list[Array]]:
        slots = spec.capacity
        return {
            "cells": [self.allocate((slots,), np.int64) for _ in range(_FRONT_END_CELLS)],
            "ends": [self.allocate((slots,), np.int64) for _ in range(_COMBINER_CELLS)],
            "done": [self.allocate((len(spec.members), slots), np.int64)],
            "dims": [self.allocate((len(spec.symbols), slots), np.int64)],
            "views": [
                self.allocate((slots, *view.stored_shape), view.dtype) for view in spec.views
            ],
            "blocks": [
                self.allocate((len(block.areas), slots, *block.shape), DTYPES[block.datatype])
                for block in spec.blocks
            ],
            "answers": [self.allocate((slots, answer_stride(spec.ensembles)), np.uint8)],
            "scores": [self.allocate((slots, _scores(spec.ensembles)), np.float32)],
        }


class Arena:
    """One process's view of an arena, in the mapping of its generation (`SharedMemory.map`).

    Attributes:
        row, ensemble, terms, closing: int64 [slots]; expected: uint64 [slots].
        done: int64 [members, slots].
        dims: each row's own sizes, in the order of the spec's symbols: int64 [symbols, slots].
        ended: int64 [slots]; used: uint64 [slots].
        views: the stored inputs, each [slots, *stored_shape].
        predictions: each area, [slots, *shape].
        blocks: the areas with equal predictions, [areas of the block, slots, *shape].
    """

    def __init__(self, memory: mmap.mmap, spec: ArenaSpec) -> None:
        self.spec = spec
        self.capacity = spec.capacity
        arrays = _Layout(memoryview(memory), spec.offset).arrays(spec)
        cells, ends = arrays["cells"], arrays["ends"]
        self.row: Cells = cells[0].view(np.int64)
        self.ensemble: Cells = cells[1].view(np.int64)
        self.expected: Masks = cells[2].view(np.uint64)
        self.terms: Cells = cells[3].view(np.int64)
        self.closing: Cells = cells[4].view(np.int64)
        self.ended: Cells = ends[0].view(np.int64)
        self.used: Masks = ends[1].view(np.uint64)
        self.done: Cells = arrays["done"][0].view(np.int64)
        self.dims: Cells = arrays["dims"][0].view(np.int64)
        self.views = arrays["views"]
        self.blocks = arrays["blocks"]
        self._answers = arrays["answers"][0]
        self._scores = arrays["scores"][0]
        #: The bit of each member in a mask, uint64 [members, 1].
        self.bits = (np.uint64(1) << np.arange(len(spec.members), dtype=np.uint64))[:, np.newaxis]
        areas = sum(len(block.areas) for block in spec.blocks)
        self.predictions: list[Array] = [np.empty(0)] * areas
        for block_spec, block in zip(spec.blocks, self.blocks, strict=True):
            for position, area in enumerate(block_spec.areas):
                self.predictions[area] = block[position]

    def slots(self, start: int, stop: int) -> slice:
        """Return the slots of the range [start, stop), which lies within one segment."""
        first = start % self.capacity
        return slice(first, first + stop - start)

    def row_numbers(self, start: int, stop: int) -> Cells:
        """Return the row numbers of the range [start, stop)."""
        return np.arange(start, stop, dtype=np.int64)

    def answers(self, ensemble: EnsembleSpec, index: int = 0) -> Array:
        """Return the answers of one of an ensemble's outputs, [slots, *shape], possibly strided."""
        output, start = ensemble.outputs[index], _answer_offsets(ensemble)[index]
        flat = self._answers[:, start : start + output.row_bytes].view(output.dtype)
        return flat.reshape((self.capacity, *output.stored_shape), copy=False)

    def scores(self, ensemble: EnsembleSpec) -> Array:
        """Return an ensemble's uncertainty scores, FP32 [slots, scores, *score shape], strided.

        Rows have them whose `terms` want them.
        """
        shape = (len(ensemble.scores), *ensemble.score.stored_shape)
        flat = self._scores[:, : math.prod(shape)]
        return flat.reshape((self.capacity, *shape), copy=False)

    def inner(self, tensor: TensorSpec, slot: int) -> tuple[slice, ...]:
        """Return the part of a tensor's stored shape that the row in a slot has; () for all."""
        symbols = self.spec.symbols
        return tuple(
            slice(int(self.dims[symbols.index(symbol), slot])) if symbol else slice(None)
            for symbol in tensor.symbols
        )

    def answer_bytes(self, ensemble: EnsembleSpec, start: int, stop: int) -> bytes:
        """Return a copy of the main output of [start, stop), row-major."""
        return self._answers[self.slots(start, stop), : ensemble.output.row_bytes].tobytes()

    def may_end(self, start: int, stop: int) -> bool:
        """Whether the combiner could end, or defer, any row of [start, stop) by now.

        If not, each of them still waits for another member or for the front-end.
        """
        slots, rows = self.slots(start, stop), self.row_numbers(start, stop)
        is_done = np.abs(self.done[:, slots]) == rows
        is_missing = (self.expected[slots] & self.bits) != 0
        is_missing &= ~is_done
        is_ready = ~is_missing.any(axis=0)
        is_ready |= (self.terms[slots] & EARLY) != 0
        is_ready |= self.closing[slots] == rows
        return bool(is_ready.any())

    def last_row(self) -> int:
        """Return the highest row number in any cell (`row` itself may be cleared)."""
        cells = (self.row, self.closing, self.ended, self.done)
        return max(int(np.abs(array).max()) for array in cells)
