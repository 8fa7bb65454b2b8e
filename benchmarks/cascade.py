"""What a cascade saves, and what it costs in accuracy: ``python -m benchmarks.cascade``.

The digits are split several times. Each time `ensembled calibrate` fits temperatures and thresholds
on the one part; then a server with these answers the other part, which nothing was fitted on: once
by the cascade, once by all members. Which member predicted how many rows is what the server's own
statistics say. Prints a table.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.limit import errors_as_lines
from benchmarks.server_process import running_server
from benchmarks.table import markdown
from server.calibration.calibration import Calibration, Source, calibrate_ensemble
from server.calibration.fitting import Options
from server.calibration.predicting import predict
from server.config import load_config
from workers.recipes.digits import held_out
from workers.recipes.digits_data import write_data

__all__ = ["Served", "main", "measure"]

_CONFIG = Path(__file__).resolve().parent.parent / "configs/digits.yaml"
_NAME, _WHOLE = "digits", "whole"
_SPLITS, _MAX_LOSS, _HOLDOUT = 5, 0.002, 0.5


@dataclass(frozen=True)
class Served:
    """What a running server did with held-out rows.

    Attributes:
        confidence: the cascade's thresholds.
        rows: how many there were.
        asked: by member in the order of the stages, the rows that it predicted for the cascade.
        asked_whole: the same for all members.
        right: rows that the cascade has right.
        right_whole: rows that all members have right.
    """

    confidence: tuple[float, ...]
    rows: int
    asked: tuple[int, ...]
    asked_whole: tuple[int, ...]
    right: int
    right_whole: int

    @property
    def saved(self) -> float:
        """Share of the member-rows."""
        return 1 - sum(self.asked) / sum(self.asked_whole)

    @property
    def points(self) -> float:
        """Accuracy of the cascade minus that of all members, in percentage points."""
        return 100 * (self.right - self.right_whole) / self.rows


def measure(data: Path, directory: Path, *, seed: int, max_loss: float) -> Served:
    """Calibrate on one part of some rows, and serve the other one.

    Args:
        data: .npz file of digits, with y.
        directory: where to write a configuration.
        seed: of the split.
        max_loss: of the cascade's accuracy, as a share.

    Raises:
        BenchmarkError: if the server does not become ready.
        EnsembledError: if the calibration fails.
    """
    options = Options(max_loss=max_loss, seed=seed)
    source = Source(data, holdout=_HOLDOUT)
    found = calibrate_ensemble(load_config(_CONFIG), _CONFIG, source, options)
    path = directory / f"calibrated-{seed}.yaml"
    path.write_text(yaml.safe_dump(_merged(found)), encoding="utf-8")
    inputs = {name: array[found.held] for name, array in found.inputs.items()}
    y = found.y[found.held]
    members = [member for stage in found.subject.stages for member in stage]
    with running_server(path) as server:
        counts = [_predicted(server.address, members)]
        right = []
        for model in (_NAME, _WHOLE):
            answers = predict(server.address, model, inputs, 1 << 20)
            right.append(int((answers.argmax(axis=1) == y).sum()))
            counts.append(_predicted(server.address, members))
    before, between, after = (np.array(one) for one in counts)
    return Served(
        confidence=found.fit.confidence or (),
        rows=len(y),
        asked=tuple(map(int, between - before)),
        asked_whole=tuple(map(int, after - between)),
        right=right[0],
        right_whole=right[1],
    )


def _merged(found: Calibration) -> dict[str, Any]:
    """The configuration with what was fitted, and a second ensemble that asks all members."""
    document: dict[str, Any] = yaml.safe_load(_CONFIG.read_text(encoding="utf-8"))
    fitted = yaml.safe_load(found.yaml)
    for name, keys in fitted["members"].items():
        document["members"][name] |= keys
    whole = document["ensembles"][_NAME]
    document["ensembles"] = {_NAME: whole | fitted["ensembles"][_NAME], _WHOLE: whole}
    return document


def _predicted(address: str, members: Sequence[str]) -> list[int]:
    """How many rows each member has predicted so far."""
    counts = []
    for name in members:
        with urllib.request.urlopen(f"http://{address}/v2/models/{name}/stats") as response:
            counts.append(int(json.load(response)["model_stats"][0]["inference_count"]))
    return counts


def _table(found: Sequence[Served]) -> str:
    rows = [
        (
            str(seed),
            ", ".join(f"{one:g}" for one in served.confidence),
            ", ".join(map(str, served.asked)),
            f"{served.saved:.1%}",
            f"{served.right / served.rows:.2%}",
            f"{served.right_whole / served.rows:.2%}",
            f"{served.points:+.2f}",
        )
        for seed, served in enumerate(found)
    ]
    points = [served.points for served in found]
    error = np.std(points, ddof=1) / math.sqrt(len(points)) if len(points) > 1 else math.nan
    saved = np.mean([served.saved for served in found])
    right = np.mean([served.right / served.rows for served in found])
    whole = np.mean([served.right_whole / served.rows for served in found])
    last = f"{np.mean(points):+.3f} ± {error:.3f}"
    rows.append(("mean", "", "", f"{saved:.1%}", f"{right:.2%}", f"{whole:.2%}", last))
    header = ("split", "confidence", "rows by member", "saved", "cascade", "all", "points")
    return markdown(header, rows)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cascade", description=__doc__)
    parser.add_argument("--splits", type=int, default=_SPLITS, help=f"default {_SPLITS}")
    parser.add_argument(
        "--max-loss", type=float, default=_MAX_LOSS, help=f"of accuracy, default {_MAX_LOSS}"
    )
    options = parser.parse_args()
    with errors_as_lines(), tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        data = write_data(directory, *held_out())[0]
        found = [
            measure(data, directory, seed=seed, max_loss=options.max_loss)
            for seed in range(options.splits)
        ]
        print(_table(found))


if __name__ == "__main__":
    main()
