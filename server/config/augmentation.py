"""The `augment` key of a member: the variants of a row for test-time augmentation.

Runs in the process that reads the configuration file; entries of the list flow in, the variants
that the worker makes flow out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag

from server.config.base import Section
from workers.runtime.spec import Variant

__all__ = ["AugmentRule", "Augmentation", "CropsConfig", "ShiftConfig", "is_function", "variants"]

AugmentRule = Literal["mean", "geometric_mean", "median", "max", "min", "vote"]

_FUNCTION = r"^[\w./-]+:[A-Za-z_]\w*$"
_MOST_PIXELS = 1024

_Pixels = Annotated[int, Field(ge=-_MOST_PIXELS, le=_MOST_PIXELS)]


class CropsConfig(Section):
    """Several crops of an image."""

    crops: Literal[5, 10]
    """The four corners and the centre of the resized image's central square; 10: these, and
    mirrored."""


class ShiftConfig(Section):
    """What a row shows, moved by whole pixels."""

    shift: tuple[_Pixels, _Pixels]
    """Pixels down and to the right; negative ones are up and to the left."""


def _form(value: Any) -> str | None:
    if value in ("identity", "hflip"):
        return f"<{value}>"
    if isinstance(value, str):
        return "<function>" if is_function(value) else None
    if isinstance(value, Mapping):
        return "<crops>" if "crops" in value else "<shift>"
    if isinstance(value, CropsConfig):
        return "<crops>"
    return "<shift>" if isinstance(value, ShiftConfig) else None


Augmentation = Annotated[
    Annotated[Literal["identity"], Tag("<identity>")]
    | Annotated[Literal["hflip"], Tag("<hflip>")]
    | Annotated[CropsConfig, Tag("<crops>")]
    | Annotated[ShiftConfig, Tag("<shift>")]
    | Annotated[str, StringConstraints(pattern=_FUNCTION), Tag("<function>")],
    Discriminator(
        _form,
        custom_error_type="augmentation",
        custom_error_message=(
            "should be identity, hflip, {crops: 5}, {shift: [DOWN, RIGHT]}, package.module:NAME "
            "or FILE.py:NAME"
        ),
    ),
]


def is_function(one: str | CropsConfig | ShiftConfig) -> bool:
    """Whether an entry names a function of the user."""
    return isinstance(one, str) and ":" in one


def variants(one: str | CropsConfig | ShiftConfig, margin: int) -> Iterator[Variant]:
    """Yield the variants of an entry; crops use a margin of so many pixels."""
    if isinstance(one, CropsConfig):
        corners = (margin, -margin)
        moves = [*((down, right) for down in corners for right in corners), (0, 0)]
        for flip in (False, True)[: one.crops // 5]:
            yield from (Variant(shift=move, flip=flip) for move in moves)
    elif isinstance(one, ShiftConfig):
        yield Variant(shift=one.shift)
    else:
        yield Variant(flip=one == "hflip", function=one if is_function(one) else "")
