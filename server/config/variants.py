"""The `variants` of a member: copies of its model at lower precision, and where they may run.

Runs in the process that reads the configuration file; the sections flow in as mappings and out as
frozen models. `ensembled variants` writes them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from server.config.base import Section
from server.config.files import FilePath

__all__ = ["VariantConfig"]


class VariantConfig(Section):
    """A copy of a member's model at lower precision."""

    model: FilePath
    """A relative path (`.onnx`, `.pt2`, `.pt`, `.ts`); its inputs and outputs are those of the
    member's `model`."""
    runs_on: Literal["cpu", "gpu"] | None = None
    """The devices that it may run on; all of them if absent."""
    disagreement: float = Field(ge=0, le=1)
    """The share of rows that it answers differently than the member's `model`, as
    `ensembled variants` has measured it; see `may_differ`."""
