"""The `placement` section: how the server finds out where its members run best.

Runs in the process that reads the configuration file; the section flows in as a mapping and out
as a frozen model.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from server.config.base import Section

__all__ = ["PlacementConfig"]

_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class PlacementConfig(Section):
    """How members are profiled and an allocation is searched, where it is `auto`."""

    batch_sizes: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(
        default=_BATCH_SIZES, min_length=1
    )
    """Batch sizes that are profiled and may be chosen; a member's `batch_size` overrides them."""
    profile_s: float = Field(default=30.0, ge=0)
    """Seconds that `serve` may spend on profiling members that it does not know; 0 is none."""
    time_limit_s: float = Field(default=10.0, gt=0)
    """Seconds that the search for an allocation may take."""
    spare_memory: Literal["fill", "leave"] = "fill"
    """Whether members get further instances where memory is to spare: they take over at once when
    a worker dies, and let single requests spread over more devices."""
    objective: Literal["throughput", "latency"] = "throughput"
    """What the allocation is to be good at: most rows per second, or fewest late answers."""
    arrival_rows_s: float | None = Field(default=None, gt=0)
    """For `latency`: how many rows arrive per second."""
    deadline_ms: float | None = Field(default=None, gt=0)
    """For `latency`: when an answer is late; if absent, the slowest percent counts."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.objective == "latency" and self.arrival_rows_s is None:
            raise ValueError("objective latency needs arrival_rows_s")
        if self.objective == "throughput":
            for key in ("arrival_rows_s", "deadline_ms"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} is for objective latency only, remove it")
        if len(set(self.batch_sizes)) < len(self.batch_sizes):
            raise ValueError("a batch size is listed more than once")
        return self
