"""The day's traffic: three ensembles whose mix changes every hour, recorded minute by minute.

`python -m benchmarks.day.trace` makes `trace.csv` anew, always the same one: the rows that came in
each minute for each ensemble, and how many of the cascade's rows reached its second stage.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["ENSEMBLES", "HOURS", "Minute", "make_trace", "read_trace"]

HOURS = 24
_FILE = Path(__file__).with_name("trace.csv")
_SEED = 7
#: The ensembles: the members of each stage.
ENSEMBLES: dict[str, list[list[str]]] = {
    "photos": [["resnet152", "densenet201", "efficientnet_b4", "vit_b16"]],
    "products": [["mobilenet_v2", "efficientnet_b0"], ["convnext_s", "swin_s"]],
    "documents": [["resnet50", "inception_v3", "vgg19", "efficientnet_b3"]],
}
#: Rows per second at the hour of most traffic, and at which hour that is.
_PEAKS = {"photos": (160.0, 20.0), "products": (300.0, 13.0), "documents": (260.0, 10.0)}
_WIDTH_HOURS = 3.5
_LEAST = 0.08
#: How much one hour differs from what the time of day would suggest.
_SIGMA = 0.5
#: The share of the cascade's rows that reach its second stage.
_UNSURE = (0.15, 0.6)


@dataclass(frozen=True)
class Minute:
    """Rows that came in one minute, by ensemble; `unsure` of the cascade's needed both stages."""

    rows: dict[str, int]
    unsure: int


def read_trace() -> list[Minute]:
    """Return the day, minute by minute."""
    with _FILE.open(newline="") as file:
        return [
            Minute({name: int(line[name]) for name in ENSEMBLES}, int(line["unsure"]))
            for line in csv.DictReader(file)
        ]


def make_trace() -> list[Minute]:
    """Return the day anew, the same one each time."""
    generator = np.random.default_rng(_SEED)
    minutes = []
    for hour in range(HOURS):
        rates = {}
        for name, (peak, at) in _PEAKS.items():
            away = min((hour - at) % HOURS, (at - hour) % HOURS)
            usual = max(np.exp(-0.5 * (away / _WIDTH_HOURS) ** 2), _LEAST)
            rates[name] = peak * usual * generator.lognormal(0.0, _SIGMA)
        unsure = generator.uniform(*_UNSURE)
        for _ in range(60):
            rows = {name: int(generator.poisson(rate * 60)) for name, rate in rates.items()}
            minutes.append(Minute(rows, int(generator.binomial(rows["products"], unsure))))
    return minutes


def main() -> None:
    """Write the trace."""
    with _FILE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*ENSEMBLES, "unsure"])
        writer.writerows([*minute.rows.values(), minute.unsure] for minute in make_trace())


if __name__ == "__main__":
    main()
