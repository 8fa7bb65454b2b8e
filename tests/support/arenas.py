"""Arenas over real shared memory, for the tests of what reads and writes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from workers.runtime.arena import Arena, Terms, arena_bytes
from workers.runtime.memory import SharedMemory, add_range, board_bytes, create_memory
from workers.runtime.queues import make_eventfds, queues_bytes
from workers.runtime.spec import (
    ArenaSpec,
    BlockSpec,
    EnsembleSpec,
    GenerationSpec,
    MemorySpec,
    PredictionSpec,
    QueuesSpec,
    RuleSpec,
    TensorSpec,
)

PROCESSES = ("front-end", "combiner", "worker cpu:0")
DEVICES = ("cpu:0",)
RING_BYTES = 4096


def vector(elements: int, datatype: str = "FP32") -> TensorSpec:
    return TensorSpec("output", datatype, (elements,))


def ensemble(
    name: str,
    members: tuple[int, ...],
    *,
    rule: str = "mean",
    quorum: int | None = None,
    output: TensorSpec | None = None,
    prediction: TensorSpec | None = None,
    columns: tuple[tuple[int, ...], ...] = (),
    class_axis: int = -1,
    scores: tuple[str, ...] = (),
    stages: tuple[int, ...] = (),
    thresholds: tuple[float, ...] = (),
    **rule_fields: object,
) -> EnsembleSpec:
    """An ensemble that combines the main outputs of its members by one rule."""
    output = output or vector(2)
    combined = PredictionSpec(prediction or output, members, columns, class_axis)
    return EnsembleSpec(
        name,
        members,
        len(members) if quorum is None else quorum,
        (combined,),
        (RuleSpec(rule, (0,), (output,), **rule_fields),),
        scores,
        stages,
        thresholds,
    )


def arena_spec(**changes: object) -> ArenaSpec:
    """Three members with two outputs each, one ensemble of all; 4 segments of 8 rows."""
    fields = {
        "offset": 0,
        "segments": 4,
        "segment_rows": 8,
        "views": (TensorSpec("x", "FP32", (2,)),),
        "members": ("a", "b", "c"),
        "blocks": (BlockSpec((0, 1, 2), "FP32", (2,)),),
        "ensembles": (ensemble("all", (0, 1, 2)),),
    }
    return ArenaSpec(**{**fields, **changes})


class TestMemory(MemorySpec, frozen=True):
    """The shared memory of a server, with its first generation."""

    __test__ = False

    generation: GenerationSpec = GenerationSpec(1, 0, 0, ())


@contextmanager
def mapped(
    *specs: ArenaSpec, bell: str = "eventfd", devices: tuple[str, ...] = DEVICES
) -> Iterator[TestMemory]:
    """Shared memory that holds these arenas and queues; its descriptors are closed in the end."""
    processes = ("front-end", "combiner", *(f"worker {device}" for device in devices))
    bells = make_eventfds(len(processes)) if bell == "eventfd" else ()
    queues = QueuesSpec(
        offset=board_bytes(len(processes)),
        ring_bytes=RING_BYTES,
        processes=processes,
        devices=devices,
        bells=bells,
    )
    nbytes = queues.offset + queues_bytes(queues)
    fd = create_memory(nbytes)
    generation = add_generation(fd, 1, *specs)
    try:
        yield TestMemory(fd, nbytes, PROCESSES, queues, generation)
    finally:
        for descriptor in (fd, *bells):
            os.close(descriptor)


def add_generation(fd: int, number: int, *specs: ArenaSpec) -> GenerationSpec:
    """A range of the memory for these arenas, each of which begins where it says."""
    offset, size = add_range(fd, specs[-1].offset + arena_bytes(specs[-1])) if specs else (0, 0)
    return GenerationSpec(number, offset, size, specs)


def open_arena(
    memory: TestMemory, index: int = 0, generation: GenerationSpec | None = None
) -> Arena:
    """A new mapping of the memory, as another process would have it."""
    generation = generation or memory.generation
    return Arena(SharedMemory(memory).map(generation), generation.arenas[index])


def claim(
    arena: Arena,
    start: int,
    stop: int,
    *,
    expected: int,
    ensemble_index: int = 0,
    quorum: int = 0,
    scores: bool = False,
    early: bool = False,
    stage: int = 0,
) -> slice:
    """What a front-end does with rows; views are filled with their row numbers."""
    slots = arena.slots(start, stop)
    for view in arena.views:
        numbers = arena.row_numbers(start, stop).reshape(-1, *(1,) * (view.ndim - 1))
        view[slots] = np.broadcast_to(numbers, view[slots].shape).astype(view.dtype)
    arena.ensemble[slots] = ensemble_index
    arena.expected[slots] = expected
    quorum = quorum or arena.spec.ensembles[ensemble_index].quorum
    arena.terms[slots] = Terms(quorum, scores, early, stage).pack()
    arena.row[slots] = arena.row_numbers(start, stop)
    return slots


def predict(arena: Arena, member: int, start: int, stop: int, *, failed: bool = False) -> None:
    """What a worker does with rows: member m answers row r with [r + m, -r]."""
    slots, rows = arena.slots(start, stop), arena.row_numbers(start, stop)
    arena.predictions[member][slots] = np.stack([rows + member, -rows], axis=1)
    arena.done[member, slots] = -rows if failed else rows
