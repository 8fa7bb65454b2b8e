"""Texts of mixed lengths against the limit: ``python -m benchmarks.text DIRECTORY``.

DIRECTORY is what ``python examples/docstrings.py DIRECTORY`` has written: three transformers that
take strings. The texts' lengths are log-normal (median 64 tokens, sigma 0.8), cut to 16 to 512.
Three rates stand side by side, measured in turn: of the members in this machine's cores without a
server, batched by the server's own length classes; of the server; and of a server that pads every
text to 512 tokens. Beside them: how far the answers are from the same networks called directly,
and how many bytes of the arena a row claims for each byte that it has.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import transformers
import yaml
from ensembled_client import EnsembleClient

from allocator.matrix import AllocationMatrix
from benchmarks.command import parse_measurement
from benchmarks.figures import Spread
from benchmarks.infer_request import EncodedRequest, binary_request
from benchmarks.limit import Limit, errors_as_lines
from benchmarks.members import expected_answer
from benchmarks.server_process import running_server
from benchmarks.table import markdown, spread
from benchmarks.wrk import find_wrk, run_wrk
from server.config import Config, load_config
from server.members.composition import compose
from server.members.inspect import inspect_members
from server.members.sources import model_sources
from workers.runtime.arena import bytes_per_row

__all__ = ["main", "mixed_texts"]

_CONFIG, _NAME, _INPUT = "text.yaml", "docstrings", "text"
_CLASSES = 4
_LENGTH_BYTES = 4
_MEDIAN, _SIGMA, _SHORTEST, _LONGEST = 64, 0.8, 16, 512
_TEXTS = 512
_SEED = 0
_WARM_UP_S = 2
_BATCHES = (8, 16, 32)
_COMPARED = 64
_ARENA_BYTES = 256 << 20


def mixed_texts(directory: Path, count: int, seed: int = _SEED) -> list[str]:
    """Return texts of mixed lengths, cut from the held-out ones; tokens are the first member's."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory / "bert")
    rows = json.loads((directory / "held_out.json").read_text())
    whole = " ".join(row["text"] for row in rows)
    spans = tokenizer(whole, return_offsets_mapping=True, add_special_tokens=False, verbose=False)
    offsets: list[tuple[int, int]] = spans["offset_mapping"]
    generator = np.random.default_rng(seed)
    drawn = _MEDIAN * np.exp(_SIGMA * generator.standard_normal(count))
    texts = []
    for tokens in np.clip(drawn, _SHORTEST, _LONGEST).astype(int) - 2:  # two are special
        first = int(generator.integers(len(offsets) - tokens))
        texts.append(whole[offsets[first][0] : offsets[first + tokens - 1][1]])
    return texts


class _Classes(NamedTuple):
    """The server's length classes: bytes of text that each holds, and bytes of its slots."""

    bounds: list[int]
    slots: list[int]

    def of(self, text: str) -> int:
        """The class of a text, which is stored with its length before it."""
        return min(
            (bound, index)
            for index, bound in enumerate(self.bounds)
            if bound >= len(text.encode()) + _LENGTH_BYTES
        )[1]

    def batches(self, texts: Sequence[str], batch: int) -> list[list[str]]:
        """Texts of a class at a time, in batches of the classes in random order."""
        alike: dict[int, list[str]] = {}
        for text in texts:
            alike.setdefault(self.of(text), []).append(text)
        found = [
            rows[start : start + batch]
            for rows in alike.values()
            for start in range(0, len(rows), batch)
        ]
        order = np.random.default_rng(_SEED).permutation(len(found))
        return [found[index] for index in order]

    def claimed(self, texts: Sequence[str], answered: int) -> float:
        """Bytes of the arena that rows claim for each that they have; an answer has `answered`."""
        slots = sum(self.slots[self.of(text)] for text in texts)
        return slots / sum(len(text.encode()) + answered for text in texts)


def _length_classes(config: Config) -> _Classes:
    members = inspect_members(config)
    names = tuple(member.name for member in members)
    matrix = AllocationMatrix(names, ("cpu:0",), ((max(_BATCHES),) * len(names),))
    found = compose(config, members, matrix, budget_bytes=_ARENA_BYTES)
    bounds, slots = [], []
    for arena in found.arenas:
        (view,) = arena.views
        bounds.append(view.row_bytes)
        slots.append(bytes_per_row(arena.views, arena.blocks, arena.ensembles))
    return _Classes(bounds, slots)


def _request(text: str) -> EncodedRequest:
    return binary_request(_NAME, _INPUT, np.array([text.encode()], object))


def _difference(address: str, config: Config, texts: Sequence[str]) -> float:
    """Return how far the server's probabilities are from those of the members called directly."""
    with EnsembleClient(f"http://{address}") as client:
        answers = [client.predict(_NAME, [text]).values for text in texts]
    expected = expected_answer(config, _NAME, np.array([text.encode() for text in texts], object))
    return float(np.abs(np.concatenate(answers) - expected).max())


def _padded(directory: Path) -> dict[str, Any]:
    """The configuration of a server that pads every text to the most tokens."""
    document: dict[str, Any] = yaml.safe_load((directory / _CONFIG).read_text(encoding="utf-8"))
    for member in document["members"].values():
        path = str(directory.absolute() / member["model"]["transformers"])
        member["model"] = {"transformers": path, "buckets": [_LONGEST]}
    return document


class _Rates(NamedTuple):
    """Rows per second, by round."""

    limit: list[float]
    served: list[float]
    padded: list[float]


def _measure(
    directory: Path, config: Config, texts: Sequence[str], options: argparse.Namespace
) -> tuple[_Rates, float]:
    """Return the rates, and how far answers are from those of the members called directly."""
    requests = [_request(text) for text in texts]
    sources, classes = model_sources(config), _length_classes(config)
    rates = _Rates([], [], [])
    with tempfile.TemporaryDirectory() as temporary:
        padded = Path(temporary, "padded.yaml")
        padded.write_text(yaml.safe_dump(_padded(directory)), encoding="utf-8")
        for number in range(options.rounds):
            with Limit(sources) as limit:
                alike = [classes.batches(texts, batch) for batch in _BATCHES]
                best = max(limit.texts_per_s(batches, options.seconds) for batches in alike)
            rates.limit.append(best)
            for path, found in ((directory / _CONFIG, rates.served), (padded, rates.padded)):
                with running_server(path) as server:
                    if number == 0 and path != padded:
                        difference = _difference(server.address, config, texts[:_COMPARED])
                    run_wrk(server.address, requests, options.connections, _WARM_UP_S)
                    result = run_wrk(server.address, requests, options.connections, options.seconds)
                    found.append(result.requests_per_s)
            print(f"round {number + 1}: {[one[-1] for one in rates]}", file=sys.stderr)
    return rates, difference


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.text", description=__doc__)
    parser.add_argument("directory", type=Path, help="what examples/docstrings.py has written")
    parser.add_argument("--connections", type=int, default=64, help="default 64")
    options = parse_measurement(parser, seconds=10)
    with errors_as_lines():
        find_wrk()
        config = load_config(options.directory / _CONFIG)
        texts = mixed_texts(options.directory, _TEXTS)
        rates, difference = _measure(options.directory, config, texts, options)
        classes = _length_classes(config)
    rows = [
        (name, spread(Spread.of(rate)), f"{np.median(np.array(rates.served) / rate):.2f}")
        for name, rate in zip(("limit", "served", "padded to the most"), rates, strict=True)
    ]
    print(markdown(("", "rows/s", "served / this"), rows))
    output = 4 * _CLASSES * (len(config.members) + 1)
    print(f"largest difference of a probability: {difference:.2g}")
    print(f"bytes claimed for a byte of the rows: {classes.claimed(texts, output):.2f}")


if __name__ == "__main__":
    main()
