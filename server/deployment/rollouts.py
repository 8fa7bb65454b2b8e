"""The roll-outs of a configuration, as the front-end is told of them.

Runs in the supervisor; pure. A configuration whose versions are expanded flows in.
"""

from __future__ import annotations

from typing import Literal

from server.config import Config, RolloutConfig
from server.config.rollout import PromoteConfig, RollbackConfig, StickyHeaderConfig
from server.rollout.spec import Limits, RolloutSpec
from server.versions import public_name

__all__ = ["rollout_specs"]


def rollout_specs(config: Config) -> tuple[RolloutSpec, ...]:
    """Return the roll-outs of members and ensembles, one for each name that has one."""
    found = {
        public_name(internal).name: section.rollout
        for sections in (config.members, config.ensembles)
        for internal, section in sections.items()
        if section.rollout is not None
    }
    return tuple(_spec(name, rollout) for name, rollout in found.items())


def _spec(name: str, config: RolloutConfig) -> RolloutSpec:
    sticky: Literal["none", "request_id", "header"] = "none"
    header = ""
    if isinstance(config.sticky, StickyHeaderConfig):
        sticky, header = "header", config.sticky.header.lower()
    elif config.sticky is not None:
        sticky = config.sticky
    return RolloutSpec(
        model=name,
        version=config.version,
        mode=config.mode,
        percent=100 * config.share,
        sticky=sticky,
        header=header,
        tolerance=config.tolerance,
        promote=_limits(config.promote),
        rollback=_limits(config.rollback),
    )


def _limits(config: PromoteConfig | RollbackConfig | None) -> Limits | None:
    return None if config is None else Limits(**config.model_dump())
