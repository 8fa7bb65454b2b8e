"""The validations of a configuration, as the front-end is told of them.

Runs in the supervisor; pure. A configuration whose versions are expanded flows in.
"""

from __future__ import annotations

from collections.abc import Mapping

from server.config import Config, EnsembleConfig, MemberConfig
from server.inference.spec import ValidationSpec
from server.versions import public_name

__all__ = ["validation_specs"]


def validation_specs(config: Config) -> tuple[ValidationSpec, ...]:
    """Return the validations of members and ensembles, one for each version that has one."""
    return (*_specs("members", config.members), *_specs("ensembles", config.ensembles))


def _specs(
    key: str, sections: Mapping[str, MemberConfig] | Mapping[str, EnsembleConfig]
) -> list[ValidationSpec]:
    return [
        ValidationSpec(
            model=internal,
            key=f"{key}.{public_name(internal).name}",
            path=str(section.validation.data),
            max_disagreement=section.validation.max_disagreement,
            tolerance=section.validation.tolerance,
        )
        for internal, section in sections.items()
        if section.validation is not None
    ]
