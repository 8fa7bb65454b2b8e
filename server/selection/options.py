"""What a selection is asked for.

Pure data, made by the command line, read by the search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from server.calibration.metrics import Array, Floats
from server.errors import ConfigError
from server.profiling import OnProgress
from server.selection.quality import MEASURES, Measure

__all__ = ["COSTS", "Constraints", "CostName", "SelectOptions"]

CostName = Literal["rows_per_s", "p99_ms", "memory_bytes", "joules_per_row", "devices"]
COSTS: tuple[CostName, ...] = get_args(CostName)

#: The command's options by the names of limits.
_OPTIONS = {
    "min_rows_per_s": "--min-rows-per-s",
    "max_p99_s": "--max-p99-ms",
    "max_memory_bytes": "--max-memory",
    "max_joules_per_row": "--max-joules",
    "max_devices": "--max-devices",
}


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What an ensemble must hold to be considered; None is no limit.

    Raises:
        ConfigError: if one is not above 0.
    """

    min_rows_per_s: float | None = None
    max_p99_s: float | None = None
    max_memory_bytes: int | None = None
    max_joules_per_row: float | None = None
    max_devices: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{_OPTIONS[name]} should be a number above 0, not {value}")


@dataclass(frozen=True, kw_only=True)
class SelectOptions:
    """The options of a selection, see `ensembled select`.

    Attributes:
        measure: of quality.
        costs: that the front is about, beside quality.
        rate_rows_s: the rate at which latency is asked about.
        most_members: of one ensemble.
        weights: whether to fit weights, beside equal ones; `cascades`: whether to fit these.
        time_limit_s: of the whole search.
        holdout: the share of the rows to judge on if there is no `test`.
        test: predictions [members, rows, *shape] and y of rows to judge on.

    Raises:
        ConfigError: if an option is wrong, or does not fit another.
    """

    measure: Measure = MEASURES["accuracy"]
    costs: tuple[CostName, ...] = ("rows_per_s",)
    constraints: Constraints = field(default_factory=Constraints)
    rate_rows_s: float | None = None
    most_members: int = 64
    cascades: bool = True
    weights: bool = True
    seed: int = 0
    time_limit_s: float = 60.0
    holdout: float = 0.3
    test: tuple[Floats, Array] | None = None
    on_progress: OnProgress = lambda what, done, total: None

    def __post_init__(self) -> None:
        if not self.costs or not set(self.costs) <= set(COSTS):
            raise ConfigError(f"--costs should be of {', '.join(COSTS)}, not {list(self.costs)}")
        if self.asks_latency and not (self.rate_rows_s and 0 < self.rate_rows_s < math.inf):
            raise ConfigError("latency depends on the load: give a rate above 0 by --rate")
        if self.most_members < 1:
            raise ConfigError(f"--most-members should be 1 or more, not {self.most_members}")
        if not 0 < self.holdout < 1:
            raise ConfigError(f"--holdout should be between 0 and 1, not {self.holdout:g}")
        if not self.time_limit_s > 0:
            raise ConfigError(f"--time-limit should be above 0, not {self.time_limit_s:g}")

    @property
    def asks_latency(self) -> bool:
        """Whether anything asks for the latency."""
        return "p99_ms" in self.costs or self.constraints.max_p99_s is not None

    @property
    def asks_energy(self) -> bool:
        """Whether anything asks for the energy."""
        return "joules_per_row" in self.costs or self.constraints.max_joules_per_row is not None
