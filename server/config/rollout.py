"""The `rollout` section of a member or an ensemble: a new version that is tried on real requests.

Runs in the process that reads the configuration file; the section flows in as a mapping and out as
a frozen model. `server.config.versions` checks that the version exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, NonNegativeFloat, PositiveFloat, Tag, model_validator

from server.config.base import Section, Version

__all__ = ["PromoteConfig", "RollbackConfig", "RolloutConfig", "StickyHeaderConfig"]

_Share = Annotated[float, Field(ge=0, le=1)]


class _LimitsConfig(Section):
    """What a version is measured by: figures since the roll-out began."""

    max_disagreement: _Share | None = None
    """For a shadow: the share of its rows whose answer is not that of the present version: another
    class, or a value that differs by more than `tolerance`."""
    max_error_rate: _Share | None = None
    """The share of its requests that failed through no fault of the client."""
    max_latency_ratio: PositiveFloat | None = None
    """Its typical latency (the geometric mean), divided by that of the present version in the same
    time; what requests wait before they are predicted does not count."""

    @property
    def is_empty(self) -> bool:
        """Whether it limits nothing."""
        limits = (self.max_disagreement, self.max_error_rate, self.max_latency_ratio)
        return all(limit is None for limit in limits)


class PromoteConfig(_LimitsConfig):
    """When the version becomes the present one by itself: it has kept all limits."""

    after_requests: int = Field(ge=1)
    """After so many of its requests, not before."""


class RollbackConfig(_LimitsConfig):
    """When the version is given up by itself: it exceeds one of the limits."""

    after_requests: int = Field(default=100, ge=1)
    """After so many of its requests, not before: single failures decide nothing."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_empty:
            raise ValueError("needs a limit: max_disagreement, max_error_rate or max_latency_ratio")
        return self


class StickyHeaderConfig(Section):
    """Which clients stay with one version: those that send the same value in a header."""

    header: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    """Name of an HTTP header, or of gRPC metadata; requests without it are divided by chance."""


def _form(value: Any) -> str | None:
    if value == "request_id":
        return "<request_id>"
    return "<header>" if isinstance(value, Mapping | StickyHeaderConfig) else None


class RolloutConfig(Section):
    """One of the versions is new: requests that name no version don't go there by themselves."""

    version: Version
    """The new version."""
    mode: Literal["shadow", "canary"]
    """`shadow` gets copies of requests, and its answers reach nobody; they are compared with those
    of the present version. `canary` answers a share of the requests."""
    percent: float | None = Field(default=None, ge=0, le=100)
    """Which share of the requests without a version it gets, in per cent; if absent, 10 for a
    canary, 100 for a shadow."""
    sticky: (
        Annotated[
            Annotated[Literal["request_id"], Tag("<request_id>")]
            | Annotated[StickyHeaderConfig, Tag("<header>")],
            Discriminator(
                _form,
                custom_error_type="sticky",
                custom_error_message="should be request_id or {header: NAME}",
            ),
        ]
        | None
    ) = None
    """For a canary: requests with the same id (`request_id`), or the same value of a header
    (`{header: NAME}`), go to the same version; if absent, chance decides for each request."""
    tolerance: NonNegativeFloat = 1e-3
    """For a shadow: two values agree if they differ by no more than this, times the present one if
    that is above 1."""
    promote: PromoteConfig | None = None
    """When it becomes the present version by itself; if absent, it waits to be told."""
    rollback: RollbackConfig | None = None
    """When it is given up by itself; if absent, it waits to be told."""

    @property
    def share(self) -> float:
        """The share of the requests that it gets, 0 to 1."""
        default = 100 if self.mode == "shadow" else 10
        return (default if self.percent is None else self.percent) / 100

    @model_validator(mode="after")
    def _check(self) -> Self:
        is_shadow = self.mode == "shadow"
        if is_shadow and self.sticky is not None:
            raise ValueError("sticky is for mode canary: nobody gets the answers of a shadow")
        if not is_shadow and "tolerance" in self.model_fields_set:
            raise ValueError("tolerance is for mode shadow: a canary is compared with nothing")
        for key in ("promote", "rollback"):
            limits: _LimitsConfig | None = getattr(self, key)
            if not is_shadow and limits and limits.max_disagreement is not None:
                raise ValueError(
                    f"{key}.max_disagreement is for mode shadow: a canary is compared with nothing"
                )
        return self
