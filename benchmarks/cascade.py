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
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ensembled_client import EnsembleClient

from benchmarks.errors import BenchmarkError
from benchmarks.limit import errors_as_lines
from benchmarks.server_process import running_server
from benchmarks.table import markdown
from server.calibration.fitting import FitOptions
from server.calibration.metrics import ClassIndices
from server.calibration.pipeline import Calibration, calibrate_ensemble
from server.config import load_config
from server.inference.dataset import Inputs

__all__ = ["Served", "main", "measure"]

_ROOT = Path(__file__).resolve().parent.parent
_CONFIG = _ROOT / "configs/digits.yaml"
_DIGITS = _ROOT / "examples/models/digits.py"
_NAME, _WHOLE = "digits", "whole"
_SPLITS, _MAX_LOSS, _HOLDOUT = 5, 0.002, 0.5
_BATCH_ROWS = 64
_COUNTED_S = 10.0


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
        told_saved: what the calibration told to be saved of these rows.
        told_right: what it told the cascade to have right.
    """

    confidence: tuple[float, ...]
    rows: int
    asked: tuple[int, ...]
    asked_whole: tuple[int, ...]
    right: int
    right_whole: int
    told_saved: float
    told_right: int

    @property
    def saved(self) -> float:
        """Share of the member-rows."""
        return 1 - sum(self.asked) / sum(self.asked_whole)

    @property
    def points(self) -> float:
        """Accuracy of the cascade minus that of all members, in percentage points."""
        return 100 * (self.right - self.right_whole) / self.rows


def measure(
    data: Path,
    directory: Path,
    *,
    seed: int = 0,
    max_loss: float = _MAX_LOSS,
    config: Path = _CONFIG,
) -> Served:
    """Calibrate on one part of some rows, and serve the other one.

    Args:
        data: .npz file of digits, with y.
        directory: where to write a configuration.
        seed: of the split.
        max_loss: of the cascade's accuracy, as a share.
        config: the ensemble of digits, or one like it.

    Raises:
        BenchmarkError: if no cascade can be found, or the server does not become ready.
        EnsembledError: if the calibration fails.
    """
    options = FitOptions(max_loss=max_loss, seed=seed)
    found = calibrate_ensemble(load_config(config), config, data, options, holdout=_HOLDOUT)
    assert isinstance(found, Calibration), "digits are classes"
    cascade = found.evaluation.cascade
    if cascade is None:
        raise BenchmarkError("; ".join(found.notes))
    path = directory / f"calibrated-{seed}.yaml"
    path.write_text(yaml.safe_dump(_merged(config, found)), encoding="utf-8")
    inputs = {name: array[found.held] for name, array in found.inputs.items()}
    y = found.y[found.held]
    members = [member for stage in found.target.stages for member in stage]
    with running_server(path) as server:
        asked, right = zip(
            *(_ask(server.address, model, members, inputs, y) for model in (_NAME, _WHOLE)),
            strict=True,
        )
    return Served(
        confidence=cascade.confidence,
        rows=len(y),
        asked=asked[0],
        asked_whole=asked[1],
        right=right[0],
        right_whole=right[1],
        told_saved=cascade.saved,
        told_right=round(cascade.accuracy * len(y)),
    )


def _merged(config: Path, found: Calibration) -> dict[str, Any]:
    """The configuration with what was fitted, and a second ensemble that asks all members."""
    document: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
    for member in document["members"].values():  # the document goes to another directory
        member["model"]["recipe"] = str(config.absolute().parent / member["model"]["recipe"])
    fitted = yaml.safe_load(found.yaml)
    for name, keys in fitted["members"].items():
        document["members"][name] |= keys
    whole = document["ensembles"][_NAME]
    whole = {key: value for key, value in whole.items() if key not in {"cascade", "confidence"}}
    document["ensembles"] = {_NAME: whole | fitted["ensembles"][_NAME], _WHOLE: whole}
    return document


def _ask(
    address: str, model: str, members: Sequence[str], inputs: Inputs, y: ClassIndices
) -> tuple[tuple[int, ...], int]:
    """Ask a model about all rows: which member predicted how many, and how many are right.

    Raises:
        BenchmarkError: if the server's counts don't add up.
    """
    before, saved_before = _counts(address, model, members)
    with EnsembleClient(f"http://{address}") as client:
        answers = client.predict(model, inputs, max_rows=_BATCH_ROWS).values
    # An answer may be there a little before the counts of those who contributed to it.
    deadline = time.monotonic() + _COUNTED_S
    while True:
        after, saved = _counts(address, model, members)
        asked = tuple(b - a for a, b in zip(before, after, strict=True))
        if sum(asked) + saved - saved_before == len(y) * len(members):
            return asked, int((answers.argmax(axis=1) == y).sum())
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{model}: rows of members and those saved don't add up: {asked}")
        time.sleep(0.02)


def _counts(address: str, model: str, members: Sequence[str]) -> tuple[list[int], int]:
    """Rows that each member has predicted so far, and those that a model has saved."""
    predicted = [int(_statistics(address, name)["inference_count"]) for name in members]
    return predicted, int(_statistics(address, model)["predictions_saved"])


def _statistics(address: str, model: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{address}/v2/models/{model}/stats") as response:
        found: dict[str, Any] = json.load(response)["model_stats"][0]
        return found


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
        subprocess.run([sys.executable, _DIGITS, "--data", folder], check=True)
        data = directory / "digits.npz"
        found = [
            measure(data, directory, seed=seed, max_loss=options.max_loss)
            for seed in range(options.splits)
        ]
        print(_table(found))


if __name__ == "__main__":
    main()
