"""What a member's outputs are: their names for clients, and how each becomes a prediction.

Runs in the process that reads the configuration file; the sections flow in as mappings and out as
frozen models. `server.members.outputs` compares them with the model.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from server.config.base import Section
from server.config.files import FilePath
from workers.runtime.spec import OutputKind, Spread

__all__ = ["OutputConfig"]

_TEMPERED = ("logits", "probabilities", "binary", "binary_logits")


class OutputConfig(Section):
    """One of a model's outputs: its name for clients, and what it means."""

    name: str | None = Field(default=None, min_length=1)
    """Name that clients use; the model's own if absent. Members that share an ensemble are combined
    in outputs of the same name."""
    kind: OutputKind = Field(default="values", alias="as")
    """What it is, as in a member's `output`."""
    temperature: float = Field(default=1.0, ge=1e-6, le=1e6)
    """As a member's `temperature`."""
    classes: int | None = Field(default=None, ge=1)
    """As a member's `classes`."""
    class_axis: int | None = None
    """As a member's `class_axis`."""
    labels: FilePath | None = None
    """As a member's `labels`."""
    spread: Spread = "variance"
    """As a member's `spread`."""
    spread_output: str | None = Field(default=None, min_length=1)
    """As a member's `spread_output`."""
    levels: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """As a member's `levels`."""
    max_shape: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """For an output with another number of items in each batch, such as the boxes of a detector:
    the largest shape, without the batch dimension. What is missing is filled with zeros, what is
    too much is cut off."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.check()
        return self

    def check(self) -> None:
        """Raise ValueError if its keys don't go together."""
        if self.temperature != 1 and self.kind not in _TEMPERED:
            raise ValueError(f"temperature is for logits and probabilities, not {self.kind}")
        if self.kind != "class" and self.classes is not None:
            raise ValueError(f"classes is for `output: class`, not {self.kind}")
        if self.kind == "class" and self.classes is None and self.labels is None:
            raise ValueError("`output: class` needs classes (how many) or labels")
        if self.class_axis == 0:
            raise ValueError("class_axis is 0, which is the batch: the classes begin at axis 1")
        if self.class_axis is not None and self.kind not in {"logits", "probabilities"}:
            raise ValueError(f"class_axis is for logits and probabilities, not {self.kind}")
        self._check_distribution()
        if self.max_shape is not None and self.kind not in {"probabilities", "values"}:
            raise ValueError(f"max_shape is for values and probabilities, not {self.kind}")

    def _check_distribution(self) -> None:
        kind = self.kind
        if kind != "normal" and (self.spread != "variance" or self.spread_output is not None):
            raise ValueError(f"spread and spread_output are for `output: normal`, not {kind}")
        if kind == "quantiles" and not self.levels:
            raise ValueError("`output: quantiles` needs levels, e.g. [0.1, 0.5, 0.9]")
        if kind != "quantiles" and self.levels:
            raise ValueError(f"levels is for `output: quantiles`, not {kind}")
        if list(self.levels) != sorted(set(self.levels)):
            raise ValueError(f"levels should ascend, not {list(self.levels)}")
        if self.labels is not None and kind in {"normal", "quantiles"}:
            raise ValueError(f"labels are of classes, not of {kind}")
