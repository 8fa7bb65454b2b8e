"""How well the surrogate predicts, and how few measurements place as well as the full grid.

    python -m benchmarks.surrogate                                 # a table, as Markdown
    python -m benchmarks.surrogate --measure CONFIG --output FILE  # the full grid of other members

The public profiles come from a roofline model (`benchmarks.study.roofline`), whose curves are
smoother than measured ones. `configs/profiles/measured.json` was measured on one core. The
deviations of latencies were chosen by half of the networks of either; pools are of the other half
("held out"), or of all. The medians of a core's rates, and the deviations of memory, were set with
the other half in view, too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from allocator.profiles import Profiles
from allocator.surrogate.surrogate import ModelNumbers
from benchmarks.study.markdown import table
from benchmarks.study.networks import ACCELERATORS, NETWORKS
from benchmarks.study.roofline import estimate
from benchmarks.surrogate.measuring import measure_grid
from benchmarks.surrogate.pools import Known, Outcome, draw_pool, place_with_few

_MEASURED = Path(__file__).parents[2] / "configs" / "profiles" / "measured.json"
_MOST = 0.3
_HEAD = ("profiles", "pools", "measured", "rows/s by the full grid's: median", "10th percentile",
         "does not fit", "error: median", "90th percentile", "intervals hold")  # fmt: skip


def _public() -> Known:
    """The study's networks on its accelerators; activations in four bytes, written and read."""
    models = {
        name: ModelNumbers(
            parameter_bytes=4 * one.parameters,
            flops=2 * one.macs,
            moved_bytes=8 * one.activations,
            peak_bytes=4 * one.activations,
            kernels=one.layers,
        )
        for name, one in NETWORKS.items()
    }
    return Known(estimate(NETWORKS, ACCELERATORS), models)


def _measured() -> Known:
    document = json.loads(_MEASURED.read_bytes())
    models = {
        name: ModelNumbers(one["parameter_bytes"], **(one["work"] or {}))
        for name, one in document["models"].items()
    }
    return Known(Profiles.from_json(_MEASURED.read_bytes()), models)


def _held_out(known: Known) -> Known:
    """Every second network: the others were looked at while the surrogate was made."""
    names = sorted(known.models)[1::2]
    return Known(known.profiles, {name: known.models[name] for name in names})


def _rows(pools: int, seed: int) -> Iterator[Sequence[str]]:
    sources: Mapping[str, Known] = {
        "public, held out": _held_out(_public()),
        "public, all": _public(),
        "measured, held out": _held_out(_measured()),
        "measured, all": _measured(),
    }
    for name, known in sources.items():
        generator = np.random.default_rng(seed)
        yield _row(
            name, [place_with_few(known, draw_pool(known, generator), _MOST) for _ in range(pools)]
        )


def _row(name: str, outcomes: Sequence[Outcome]) -> Sequence[str]:
    ratios = np.array([one.ratio for one in outcomes])
    errors = np.concatenate([one.errors for one in outcomes])
    held = np.concatenate([one.held for one in outcomes])
    return (
        name,
        f"{len(outcomes)}",
        f"{np.median([one.measured / one.grid for one in outcomes]):.0%}",
        f"{np.median(ratios):.3f}",
        f"{np.quantile(ratios, 0.1):.3f}",
        f"{(ratios == 0).sum()}",
        f"{np.median(errors):.1%}",
        f"{np.quantile(errors, 0.9):.1%}",
        f"{held.mean():.0%}",
    )


def main() -> None:
    """Print the table, or measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.surrogate")
    parser.add_argument("--pools", type=int, default=40, help="of each kind of profiles")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", type=Path, metavar="CONFIG", help="measure a full grid")
    parser.add_argument("--output", type=Path, metavar="FILE", default=_MEASURED)
    options = parser.parse_args()
    if options.measure:
        options.output.write_text(measure_grid(options.measure) + "\n", encoding="utf-8")
    else:
        print(table(_HEAD, _rows(options.pools, options.seed)))


if __name__ == "__main__":
    main()
