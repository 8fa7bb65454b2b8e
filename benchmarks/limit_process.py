"""One core's part of the limit: ``python -m benchmarks.limit_process``, a child of the limit.

A line of JSON on stdin says where to run and what to load, each further line is a command; every
line is answered by one on stdout. The end of stdin ends the process.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import BinaryIO

import msgspec
import numpy as np

from benchmarks.members import one_core, random_input
from workers.backends import Model, ModelError, load
from workers.backends.base import Array
from workers.runtime.spec import ModelSource

__all__ = [
    "Command",
    "Failed",
    "InTurn",
    "Probe",
    "Reply",
    "Row",
    "Setup",
    "Single",
    "Texts",
    "Timing",
    "main",
]

_LEAST_CALLS = 7


class Setup(msgspec.Struct, frozen=True):
    """The first line: a core, the members to load on it, and the seed of their inputs."""

    core: int
    sources: tuple[ModelSource, ...]
    seed: int


class Probe(msgspec.Struct, frozen=True, tag=True):
    """Call one member at one batch size for some time."""

    member: int
    batch: int
    seconds: float


class InTurn(msgspec.Struct, frozen=True, tag=True):
    """Call all members in turn, each at its batch size, for some time."""

    batches: tuple[int, ...]
    seconds: float


class Single(msgspec.Struct, frozen=True, tag=True):
    """Call all members in turn at batch 1 for some time."""

    seconds: float


class Row(msgspec.Struct, frozen=True, tag=True):
    """Call some members in turn at batch 1, once."""

    members: tuple[int, ...]


class Texts(msgspec.Struct, frozen=True, tag=True):
    """Call all members in turn with batches of texts, again and again for some time."""

    batches: tuple[tuple[str, ...], ...]
    seconds: float


Command = Probe | InTurn | Single | Row | Texts


class Timing(msgspec.Struct, frozen=True, tag=True):
    """A command's outcome: rows in seconds.

    After `InTurn` and `Texts` it is all that was done; after `Probe` and `Single` it is the median
    of a call or a turn, after `Single` with each member's own median in `members_s`.
    """

    rows: int
    seconds: float
    members_s: tuple[float, ...] = ()


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The members can't be loaded."""

    error: str


Reply = Timing | Failed


class _Members:
    def __init__(self, setup: Setup) -> None:
        device = one_core(setup.core)
        self._models: list[Model] = [load(source, device) for source in setup.sources]
        self._seed = setup.seed
        self._inputs: dict[tuple[int, int], list[Array]] = {}

    def obey(self, command: Command) -> Timing:
        match command:
            case Probe():
                return self._probe(command)
            case InTurn():
                return self._in_turn(command)
            case Single():
                return self._single(command)
            case Texts():
                return self._texts(command)
            case Row():
                return Timing(1, sum(self._call(member, 1) for member in command.members))

    def _call(self, member: int, batch: int) -> float:
        inputs = self._inputs.get((member, batch))
        if inputs is None:
            specs = self._models[member].signature.inputs
            inputs = [random_input(spec, batch, self._seed) for spec in specs]
            self._inputs[member, batch] = inputs
        started = time.perf_counter()
        self._models[member].predict(inputs)
        return time.perf_counter() - started

    def _probe(self, command: Probe) -> Timing:
        self._call(command.member, command.batch)
        spent: list[float] = []
        started = time.perf_counter()
        while len(spent) < _LEAST_CALLS or time.perf_counter() - started < command.seconds:
            spent.append(self._call(command.member, command.batch))
        return Timing(command.batch, statistics.median(spent))  # blind to a neighbour's bursts

    def _in_turn(self, command: InTurn) -> Timing:
        """Take the largest batch's rows through every member, again and again."""
        cycle = max(command.batches)
        calls = [
            (member, batch)
            for member, batch in enumerate(command.batches)
            for _ in range(cycle // batch)
        ]
        for call in calls:
            self._call(*call)
        rows = 0
        started = time.perf_counter()
        while (elapsed := time.perf_counter() - started) < command.seconds:
            for call in calls:
                self._call(*call)
            rows += cycle
        return Timing(rows, elapsed)

    def _texts(self, command: Texts) -> Timing:
        batches = [np.array([text.encode() for text in texts], object) for texts in command.batches]
        for model in self._models:
            model.predict([batches[0]])
        rows = number = 0
        started = time.perf_counter()
        while (elapsed := time.perf_counter() - started) < command.seconds:
            batch = batches[number % len(batches)]
            for model in self._models:
                model.predict([batch])
            rows += len(batch)
            number += 1
        return Timing(rows, elapsed)

    def _single(self, command: Single) -> Timing:
        members = range(len(self._models))
        for member in members:
            self._call(member, 1)
        turns: list[Sequence[float]] = []
        started = time.perf_counter()
        while len(turns) < _LEAST_CALLS or time.perf_counter() - started < command.seconds:
            turns.append([self._call(member, 1) for member in members])
        return Timing(
            1,
            statistics.median(sum(turn) for turn in turns),
            tuple(statistics.median(turn[member] for turn in turns) for member in members),
        )


def main(commands: BinaryIO, replies: BinaryIO) -> None:
    """Load, then obey until there are no more commands."""

    def reply(message: Reply) -> None:
        replies.write(msgspec.json.encode(message) + b"\n")
        replies.flush()

    setup = msgspec.json.decode(commands.readline(), type=Setup)
    os.sched_setaffinity(0, {setup.core})
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        members = _Members(setup)
    except ModelError as error:
        reply(Failed(str(error)))
        return
    reply(Timing(0, 0.0))
    for line in commands:
        reply(members.obey(msgspec.json.decode(line, type=Command)))


if __name__ == "__main__":
    _out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is not a reply
    main(sys.stdin.buffer, _out)
