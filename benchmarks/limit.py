"""The limit: what the members can do without a server, ``python -m benchmarks.limit CONFIG``.

One process per core, pinned to it. Throughput: each calls every member in turn at its best batch
size; rows/s of the ensemble, summed over the processes. Latency: the members at batch 1 in one of
the processes, the others idle: the slowest of them alone (each on a core of its own could do no
better) and all in turn.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import msgspec

from benchmarks.errors import BenchmarkError
from benchmarks.figures import LimitFigures, Spread
from benchmarks.limit_process import (
    Command,
    InTurn,
    Probe,
    Reply,
    Row,
    Setup,
    Single,
    Texts,
    Timing,
)
from server.config import load_config
from server.errors import EnsembledError
from server.members.sources import model_sources
from workers.builder import RecipeError
from workers.runtime.spec import ModelSource

__all__ = ["BATCHES", "Limit", "LimitRound", "LimitRounds", "errors_as_lines", "main", "splits"]

#: The batch sizes that are tried, smallest first; each divides all that come after it.
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)

_ROOT = Path(__file__).resolve().parent.parent
_SEED = 0
_CLEARLY_WORSE = 1.1
_LONGEST_CALL_S = 1.0
_PROBE_S = 0.2
_LEAST_ROWS = 7


def splits(members: int, cores: int) -> list[tuple[tuple[int, ...], ...]]:
    """Return the ways to spread members over cores that are alike: of each core, its members.

    Args:
        members: how many, 1 or more.
        cores: how many.
    """
    found: list[list[list[int]]] = [[]]
    for member in range(members):
        found = [
            [*(group for group in groups if group is not chosen), [*chosen, member]]
            for groups in found
            for chosen in [*groups, *([[]] if len(groups) < cores else [])]
        ]
    return [tuple(map(tuple, [*sorted(groups), *[[]] * (cores - len(groups))])) for groups in found]


class LimitRound(NamedTuple):
    """The limit in one round.

    Attributes:
        rows_per_s: of the whole ensemble.
        slowest_ms: the slowest member at batch 1.
        in_turn_ms: all members in turn at batch 1.
        split_ms: a row by all members spread over the cores; None if it is not measured.
    """

    rows_per_s: float
    slowest_ms: float
    in_turn_ms: float
    split_ms: float | None = None


class Limit:
    """The processes that measure the limit, loaded and idle until they are asked.

    Args:
        sources: the members.
        cores: one process on each; all that this process may use if not given.

    Raises:
        BenchmarkError: if a member can't be loaded.
    """

    def __init__(self, sources: Sequence[ModelSource], cores: Sequence[int] | None = None) -> None:
        self._names = [source.member for source in sources]
        cores = sorted(os.sched_getaffinity(0)) if cores is None else cores
        environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
        self._children: list[subprocess.Popen[bytes]] = []
        try:
            for core in cores:
                child = subprocess.Popen(
                    [sys.executable, "-P", "-m", "benchmarks.limit_process"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment,
                )
                self._children.append(child)
                _send(child, Setup(core, tuple(sources), _SEED))
            for child in self._children:
                _receive(child)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Limit:
        """Return itself; the processes end with the block."""
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """End the processes."""
        self.close()

    def close(self) -> None:
        """End the processes and wait for them."""
        for child in self._children:
            assert child.stdin is not None
            with contextlib.suppress(OSError):
                child.stdin.close()
        for child in self._children:
            child.wait()
            assert child.stdout is not None
            child.stdout.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the members."""
        return tuple(self._names)

    @property
    def cores(self) -> int:
        """How many processes there are."""
        return len(self._children)

    def best_batches(self, seconds: float) -> dict[str, int]:
        """Find each member's best batch size, with all cores busy.

        Args:
            seconds: for each size of each member; sizes that are clearly too big are left out.
        """
        return {name: self._best_batch(i, seconds) for i, name in enumerate(self._names)}

    def _best_batch(self, member: int, seconds: float) -> int:
        best, best_s = 0, 0.0
        for batch in BATCHES:
            timings = self._ask(self._children, Probe(member, batch, seconds))
            row_s = statistics.mean(timing.seconds / timing.rows for timing in timings)
            if not best or row_s < best_s:
                best, best_s = batch, row_s
            elif row_s > best_s * _CLEARLY_WORSE:
                break
            if row_s * batch > _LONGEST_CALL_S:
                break
        return best

    def rows_per_s(self, batches: dict[str, int], seconds: float) -> float:
        """Measure the ensemble's throughput, all processes together.

        Args:
            batches: each member's batch size.
            seconds: how long.
        """
        command = InTurn(tuple(batches[name] for name in self._names), seconds)
        timings = self._ask(self._children, command)
        return sum(timing.rows / timing.seconds for timing in timings)

    def latency_s(self, seconds: float) -> tuple[float, float]:
        """Measure batch 1 in one process: the slowest member's median, and that of all in turn."""
        (timing,) = self._ask(self._children[:1], Single(seconds))
        return max(timing.members_s), timing.seconds

    def best_split(self, seconds: float) -> tuple[tuple[int, ...], ...]:
        """Find the members of each core that have one row done first at batch 1.

        Args:
            seconds: for each way to spread the members.
        """
        found = {
            split: self.split_s(split, seconds) for split in splits(len(self._names), self.cores)
        }
        return min(found, key=found.__getitem__)

    def split_s(self, split: Sequence[Sequence[int]], seconds: float) -> float:
        """Measure one row by all members at batch 1, spread over the cores: the median.

        All cores begin at the same time, and the last one ends the row. What telling them takes
        is not in it.

        Args:
            split: the members of each core.
            seconds: how long.
        """
        rows: list[float] = []
        started = time.perf_counter()
        while len(rows) < _LEAST_ROWS or time.perf_counter() - started < seconds:
            for child, members in zip(self._children, split, strict=True):
                _send(child, Row(tuple(members)))
            rows.append(max(_receive(child).seconds for child in self._children))
        return statistics.median(rows)

    def texts_per_s(self, batches: Sequence[Sequence[str]], seconds: float) -> float:
        """The rate of the ensemble at batches of texts, which every process begins elsewhere in.

        Args:
            batches: at least one per process.
            seconds: how long to measure.
        """
        share = len(batches) // len(self._children)
        for number, child in enumerate(self._children):
            turned = [*batches[number * share :], *batches[: number * share]]
            _send(child, Texts(tuple(map(tuple, turned)), seconds))
        timings = [_receive(child) for child in self._children]
        return sum(timing.rows / timing.seconds for timing in timings)

    def _ask(self, children: Sequence[subprocess.Popen[bytes]], command: Command) -> list[Timing]:
        for child in children:
            _send(child, command)
        return [_receive(child) for child in children]


class LimitRounds:
    """The limit's figures, gathered round by round so that others can be measured between.

    Args:
        limit: the processes.
        seconds: of each measurement of a round.
        with_split: whether a row spread over the cores is measured, too.
    """

    def __init__(self, limit: Limit, seconds: float, *, with_split: bool = False) -> None:
        self._limit = limit
        self._seconds = seconds
        probe_s = min(_PROBE_S, seconds)
        self._batches = limit.best_batches(probe_s)
        self._split = limit.best_split(probe_s) if with_split else ()
        self._rounds: list[LimitRound] = []

    def measure(self) -> LimitRound:
        """Measure a round."""
        rate = self._limit.rows_per_s(self._batches, self._seconds)
        slowest_s, in_turn_s = self._limit.latency_s(self._seconds / 2)
        split_ms = None
        if self._split:
            split_ms = self._limit.split_s(self._split, self._seconds / 2) * 1e3
        self._rounds.append(LimitRound(rate, slowest_s * 1e3, in_turn_s * 1e3, split_ms))
        return self._rounds[-1]

    def figures(self) -> LimitFigures:
        """Summarise the rounds."""
        names = self._limit.names
        splits_ms = [one.split_ms for one in self._rounds if one.split_ms is not None]
        return LimitFigures(
            cores=self._limit.cores,
            batches=self._batches,
            rows_per_s=Spread.of([one.rows_per_s for one in self._rounds]),
            slowest_ms=Spread.of([one.slowest_ms for one in self._rounds]),
            in_turn_ms=Spread.of([one.in_turn_ms for one in self._rounds]),
            split_ms=Spread.of(splits_ms) if splits_ms else None,
            split=tuple(tuple(names[member] for member in part) for part in self._split),
        )


def _send(child: subprocess.Popen[bytes], message: Setup | Command) -> None:
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it is dead: `_receive` says so
        child.stdin.write(msgspec.json.encode(message) + b"\n")
        child.stdin.flush()


def _receive(child: subprocess.Popen[bytes]) -> Timing:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise BenchmarkError(f"a process of the limit ended with status {child.wait()}")
    reply: Reply = msgspec.json.decode(line, type=Reply)
    if isinstance(reply, Timing):
        return reply
    raise BenchmarkError(reply.error)


@contextlib.contextmanager
def errors_as_lines() -> Iterator[None]:
    """Turn errors that need no traceback into a line on stderr and exit status 1."""
    try:
        yield
    except (BenchmarkError, EnsembledError, RecipeError) as error:
        sys.exit(f"error: {error}")


def main() -> None:
    """Measure the limit of a configuration and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limit", description=__doc__)
    parser.add_argument("config", type=Path, metavar="CONFIG")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with errors_as_lines(), Limit(model_sources(load_config(options.config))) as limit:
        rounds = LimitRounds(limit, options.seconds, with_split=True)
        for _ in range(max(1, options.rounds)):
            rounds.measure()
        figures = rounds.figures()
    if options.json:
        print(msgspec.json.encode(figures).decode())
        return
    batches = ", ".join(f"{name} x{batch}" for name, batch in figures.batches.items())
    print(f"{figures.cores} cores, best batches: {batches}")
    for text, spread, unit in (
        ("all members in turn", figures.rows_per_s, "rows/s"),
        ("slowest member, batch 1", figures.slowest_ms, "ms"),
        ("all members, batch 1", figures.in_turn_ms, "ms"),
        ("best split, batch 1", figures.split_ms, "ms"),
    ):
        if spread is not None:
            line = f"{spread.median:12.3f} {unit} ({spread.low:.3f} to {spread.high:.3f})"
            print(f"{text:24} {line}")


if __name__ == "__main__":
    main()
