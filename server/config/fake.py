"""The `fake` section: how a member without a network behaves, for tests and benchmarks.

Runs in the process that reads the configuration file; the section flows in as a mapping, the
options of the worker's fake backend flow out.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat

from server.config.base import Section
from server.config.inputs import Dimension, OpenSize
from workers.runtime.spec import FakeOptions

__all__ = ["FakeConfig"]


class FakeConfig(Section):
    """The behaviour of a fake member, which replaces a network in tests and benchmarks."""

    inputs: dict[str, tuple[OpenSize, ...]] = Field(min_length=1)
    """Shape of each input without the batch dimension, -1 where it is variable; all are `FP32`."""
    outputs: (
        Annotated[int, Field(ge=1)]
        | Annotated[dict[str, tuple[Dimension, ...]], Field(min_length=1)]
    )
    """Number of output elements per row; or, for several outputs, the shape of each without the
    batch dimension."""
    sleep_ms: NonNegativeFloat = 0.0
    """Time that one batch takes."""
    fail: Literal["none", "raise", "exit", "hang", "nan", "alloc"] = "none"
    """How it fails."""
    fail_value: float | None = None
    """Fail only on rows whose first element has this value; on all rows if absent."""
    add: float = 0.0
    """Added to every output element, so that members can be told apart."""

    def options(self) -> FakeOptions:
        """Return the same in the form of a worker's spec."""
        return FakeOptions(**self.model_dump())
