"""The `boxes` section of an ensemble: how the boxes of detectors are combined.

Runs in the process that reads the configuration file; the section flows in as a mapping and out as
a frozen model.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from server.config.base import Section
from workers.rules.detection import FusedScore

__all__ = ["BoxesConfig"]


class BoxesConfig(Section):
    """How `weighted_boxes`, `nms` and `soft_nms` combine the boxes of detectors."""

    iou: float | None = Field(default=None, ge=0, lt=1)
    """Two boxes are of one object if their intersection over union is above this; 0.55 if
    absent."""
    skip: NonNegativeFloat | None = None
    """Boxes with a lower score are left out from the beginning; 0 if absent."""
    score: FusedScore | None = None
    """For `weighted_boxes`: the score of a fused box; `average` if absent, which counts the members
    that did not find the object. See [detection.md](detection.md)."""
    decay: Literal["gaussian", "linear"] | None = None
    """For `soft_nms`: how the scores of boxes that overlap a better one are lowered; `gaussian` if
    absent."""
    sigma: PositiveFloat | None = None
    """For gaussian decay, which is `exp(-iou ** 2 / sigma)`; 0.5 if absent."""
    keep: NonNegativeFloat | None = None
    """For `soft_nms`: boxes whose lowered score is not above this are left out; 0.001 if absent."""
    coordinates: Literal["pixels", "normalized"] | None = None
    """`pixels` or any other unit, the default, or `normalized`: parts of the image, cut to 0 to
    1."""
    most: int | None = Field(default=None, ge=1, le=100_000)
    """Boxes of an answer, the best ones; if absent, as many as a member can give."""
