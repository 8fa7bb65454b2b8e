"""Networks replaced under load: ``python -m benchmarks.changes``.

Serves three EfficientNets, and replaces all three by others, again and again, while requests arrive
at half of the rate that the server can answer. Latency while a change goes on stands beside that of
the quiet time before it, from each request's due time. Every answer must be that of the old
networks or of the new ones, as its generation says; no request may fail.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.numpy_helper
import yaml
from ensembled_client import AsyncEnsembleClient, EnsembleClient

from benchmarks.command import parse_measurement
from benchmarks.errors import BenchmarkError
from benchmarks.figures import Spread, percentile
from benchmarks.limit import errors_as_lines
from benchmarks.server_process import running_server
from benchmarks.table import markdown, spread
from server.config import load_config
from server.measurement.load import Intensity, measure_rows_s
from server.members.sources import model_sources

__all__ = ["main"]

_IMAGENET = Path(__file__).resolve().parent.parent / "configs/imagenet.yaml"
_NAME, _SIDE = "imagenet", 260
_SEED = 0
_LOAD_SHARE = 0.5
_CLIENTS = 8
#: What still happens after a change: the old networks end, memory is touched for the first time.
_AFTER_S = 1.0
_TOLERANCE = 1e-4


class _Answered(NamedTuple):
    """A request: when it was due and answered, the generation that did, and whether it is right."""

    due_s: float
    done_s: float
    generation: int
    values: Any

    @property
    def latency_s(self) -> float:
        return self.done_s - self.due_s


class _Window(NamedTuple):
    """What was due in an interval of time."""

    answers: list[_Answered]

    @property
    def p99_s(self) -> float:
        return percentile([one.latency_s for one in self.answers], 99)

    @property
    def longest_gap_s(self) -> float:
        """The longest time without an answer."""
        done = sorted(one.done_s for one in self.answers)
        return max(later - earlier for earlier, later in zip(done, done[1:], strict=False))


def _retrained(path: Path, number: int) -> Path:
    """Write a network that differs from another one in the classifier's bias."""
    model = onnx.load(path)
    names = set(model.graph.node[-1].input)
    for tensor in model.graph.initializer:
        if tensor.name in names and len(tensor.dims) == 1:
            bias = onnx.numpy_helper.to_array(tensor)
            moved = bias + np.random.default_rng(number).normal(0, 1, bias.shape)
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved.astype(bias.dtype), tensor.name))
            break
    else:
        raise BenchmarkError(f"{path.name}: its last node has no bias")
    other = path.with_name(f"other-{path.name}")
    onnx.save(model, other)
    return other


class _Networks:
    """A configuration whose three networks can be replaced by three others."""

    def __init__(self, directory: Path) -> None:
        self._document = yaml.safe_load(_IMAGENET.read_text(encoding="utf-8"))
        self.path = directory / "changes.yaml"
        self._files: list[tuple[str, tuple[Path, Path]]] = []
        for number, source in enumerate(model_sources(load_config(_IMAGENET))):
            first = directory / f"{source.member}.onnx"
            first.write_bytes(Path(source.path).read_bytes())
            self._files.append((source.member, (first, _retrained(first, number))))
        self.serve(0)

    def serve(self, which: int) -> None:
        """Write the configuration with one of the two sets of networks."""
        for member, files in self._files:
            self._document["members"][member]["model"] = files[which].name
        self.path.write_text(yaml.safe_dump(self._document), encoding="utf-8")


@contextlib.asynccontextmanager
async def _load(url: str, rate: float, image: Any) -> AsyncIterator[list[_Answered]]:
    """Send requests at a rate, at random times, for the length of a block; collect the answers."""
    answers: list[_Answered] = []
    generator = np.random.default_rng(_SEED)

    async def ask(due_s: float) -> None:
        prediction = await client.predict(_NAME, image)
        done_s = time.monotonic()
        answers.append(_Answered(due_s, done_s, prediction.generation, prediction.values))

    async def send() -> None:
        async with asyncio.TaskGroup() as group:
            due_s = time.monotonic()
            while not stopped.is_set():
                due_s += float(generator.exponential(1 / rate))
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                group.create_task(ask(due_s))

    stopped = asyncio.Event()
    async with AsyncEnsembleClient(url, retries=0) as client:
        sending = asyncio.create_task(send())
        try:
            yield answers
        finally:
            stopped.set()
            await sending


async def _change(
    url: str, networks: _Networks, rate: float, image: Any, options: argparse.Namespace
) -> tuple[list[tuple[_Window, _Window]], list[float], list[_Answered]]:
    """Return per change the quiet time before it and the time of it, and how long each took."""
    windows, took = [], []
    async with _load(url, rate, image) as answers, AsyncEnsembleClient(url) as control:
        for number in range(options.rounds):
            await asyncio.sleep(options.seconds)
            networks.serve((number + 1) % 2)
            start_s = time.monotonic()
            await control.reload()
            took.append(time.monotonic() - start_s)
            await asyncio.sleep(_AFTER_S)
            windows.append((start_s, time.monotonic()))
    found = [
        tuple(
            _Window([one for one in answers if first <= one.due_s < last])
            for first, last in ((start_s - options.seconds + _AFTER_S, start_s), (start_s, end_s))
        )
        for start_s, end_s in windows
    ]
    return [(quiet, change) for quiet, change in found], took, answers


def _check(answers: Sequence[_Answered], expected: Sequence[Any]) -> None:
    """Raise `BenchmarkError` unless every answer is that of its generation's networks."""
    for one in answers:
        which = (one.generation + 1) % 2
        if not np.allclose(one.values, expected[which], atol=_TOLERANCE):
            raise BenchmarkError(f"an answer of generation {one.generation} is wrong")


def _expected(networks: _Networks, image: Any) -> list[Any]:
    """The answer of each set of networks, from servers that are not changed."""
    expected = []
    for which in range(2):
        networks.serve(which)
        with (
            running_server(networks.path) as server,
            EnsembleClient(f"http://{server.address}") as c,
        ):
            expected.append(c.predict(_NAME, image).values)
    networks.serve(0)
    return expected


def _measure(networks: _Networks, options: argparse.Namespace) -> None:
    image = np.random.default_rng(_SEED).integers(0, 256, (1, _SIDE, _SIDE, 3), np.uint8)
    expected = _expected(networks, image)
    config = load_config(networks.path)
    with running_server(networks.path) as server:
        load = Intensity(_CLIENTS, 1)
        capacity = measure_rows_s(server.address, config, load, options.seconds)
        rate = _LOAD_SHARE * capacity
        url = f"http://{server.address}"
        windows, took, answers = asyncio.run(_change(url, networks, rate, image, options))
    _check(answers, expected)
    ratios = [change.p99_s / quiet.p99_s for quiet, change in windows]
    gaps = [change.longest_gap_s / quiet.longest_gap_s for quiet, change in windows]
    rows = [
        ("capacity, rows/s", f"{capacity:.1f}"),
        ("requests, all right", str(len(answers))),
        ("a change takes, s", spread(Spread.of(took))),
        ("p99 in quiet, ms", spread(Spread.of([quiet.p99_s * 1e3 for quiet, _ in windows]))),
        ("p99 in a change, ms", spread(Spread.of([one.p99_s * 1e3 for _, one in windows]))),
        ("p99 in a change / in quiet", spread(Spread.of(ratios))),
        ("longest time without an answer, in a change / in quiet", spread(Spread.of(gaps))),
        ("median latency, ms", f"{statistics.median(a.latency_s for a in answers) * 1e3:.1f}"),
    ]
    print(markdown(("", "median (lowest to highest)"), rows))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.changes", description=__doc__)
    options = parse_measurement(parser, seconds=6, rounds=7)
    with errors_as_lines(), tempfile.TemporaryDirectory() as directory:
        _measure(_Networks(Path(directory)), options)


if __name__ == "__main__":
    main()
