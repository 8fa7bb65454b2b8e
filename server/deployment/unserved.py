"""The models of a configuration that are not served, for the index of the model repository.

Runs in the supervisor; pure, except for listing directories of versions. The configuration as it
was read and the one that is served flow in, names with reasons flow out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from server.config import Config
from server.config.directories import find_versions
from server.config.versions import VersionsConfig
from server.inference.spec import UnservedModel
from server.versions import DEFAULT_VERSION, ModelName, public_name

__all__ = ["unserved_models"]

_UNLOADED = "it is not loaded"
_LEFT_OUT = "other versions of it are served"


def unserved_models(base: Config, served: Config) -> tuple[UnservedModel, ...]:
    """Return the models and versions of a configuration that are not among those served.

    Args:
        base: the configuration as it was read, not expanded.
        served: what is served of it and beside it, expanded.
    """
    there = {public_name(one) for one in (*served.members, *served.ensembles)}
    names = {one.name for one in there}
    return tuple(
        UnservedModel(one.name, one.version, _LEFT_OUT if one.name in names else _UNLOADED)
        for one in _all_versions(base)
        if one not in there
    )


def _all_versions(config: Config) -> Iterator[ModelName]:
    for name, ensemble in config.ensembles.items():
        for key in ensemble.sections:
            yield ModelName(name, key.rpartition(".")[2] or DEFAULT_VERSION)
    for name, member in config.members.items():
        model = member.model
        if not isinstance(model, VersionsConfig):
            yield ModelName(name, DEFAULT_VERSION)
        elif isinstance(model.versions, Path):
            with suppress(OSError, ValueError):  # it has changed since: so be it
                for version in find_versions(model.versions):
                    yield ModelName(name, version)
        else:
            for version in model.versions:
                yield ModelName(name, version)
