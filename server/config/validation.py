"""The `validate` section of a member or an ensemble: rows on which a change must keep the answers.

Runs in the process that reads the configuration file; the section flows in as a mapping, or as the
path of a file alone, and out as a frozen model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, NonNegativeFloat

from server.config.base import Section
from server.config.files import FilePath

__all__ = ["Validation", "ValidationConfig"]


class ValidationConfig(Section):
    """What is asked of the present and of the new model before requests go to the new one."""

    data: FilePath
    """Inputs by name (or `x`), as `ensembled calibrate` takes them (.npz)."""
    max_disagreement: float = Field(default=0.05, ge=0, le=1)
    """The largest share of the rows whose answer may change: another class, or a value that differs
    by more than `tolerance`."""
    tolerance: NonNegativeFloat = 1e-3
    """By how much a value may differ: absolute, and relative to values above 1."""


def _file_alone(value: Any) -> Any:
    """A file by itself, or a pinned one, is the data."""
    is_pinned = isinstance(value, Mapping) and bool({"file", "url"} & value.keys())
    return {"data": value} if isinstance(value, str | Path) or is_pinned else value


Validation = Annotated[ValidationConfig, BeforeValidator(_file_alone)]
