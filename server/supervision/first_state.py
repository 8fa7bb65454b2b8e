"""What a server starts with: its configuration as it is, or what a killed server served last.

Runs in the process that becomes the supervisor. The configuration on the disk and the state that an
earlier server left behind flow in; what to serve, and the plan of it, flow out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import msgspec

from allocator.matrix import AllocationMatrix
from server.config import Config
from server.config.amendments import Amendments, amend
from server.config.loading import with_versions
from server.deployment.links import Links
from server.deployment.plan import DeploymentPlan, make_plan
from server.errors import ConfigError, StartError
from server.members.probes import Probes
from server.supervision.config_reloader import ReadConfig
from server.supervision.saved_state import SavedState, StateFile
from workers.backends.files import changed_file
from workers.runtime.spec import ModelSource

__all__ = ["FirstState", "find_first_state", "plan_first"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FirstState:
    """What to serve; `on_disk` is the configuration as it is if that is something else.

    Members with `formers` are served as these were, by the server's names.
    """

    base: Config
    amendments: Amendments = Amendments()
    on_disk: Config | None = None
    formers: Mapping[str, ModelSource] = field(default_factory=dict)


def find_first_state(
    on_disk: Config | ConfigError, read: ReadConfig, state: StateFile
) -> FirstState:
    """Return what an earlier server left behind when it was killed, else what is on the disk.

    The section `server` is always that on the disk, if it can be read.

    Raises:
        ConfigError: if the configuration is wrong, and nothing else is there.
    """
    saved = state.read()
    if saved is not None:
        sources = saved.sources
        changed = any(changed_file(source.stamps) for source in sources.values())
        if isinstance(on_disk, Config) and not changed:
            now = SavedState.of(on_disk.path, on_disk.document, Amendments(), 1, sources)
            if msgspec.structs.replace(saved, generation=1) == now:
                return FirstState(on_disk)
        try:
            base = read(saved.document)
        except ConfigError as error:
            _log.warning("what was served last is not valid any more: %s", error)
        else:
            _log.warning(
                "the server was killed when it served generation %d, which is not what %s says: "
                "it is served again; reload (SIGHUP) to go to the configuration, or remove %s "
                "before the start",
                *(saved.generation, saved.config, state.path),
            )
            if isinstance(on_disk, ConfigError):
                _log.error("the configuration is wrong now: %s", on_disk)
                return FirstState(base, saved.amendments, formers=sources)
            kept = base.model_copy(update={"server": on_disk.server})
            return FirstState(kept, saved.amendments, on_disk, sources)
    if isinstance(on_disk, ConfigError):
        raise on_disk
    return FirstState(on_disk)


def plan_first(
    first: FirstState, probes: Probes, links: Links, log: Callable[[str], None]
) -> tuple[FirstState, DeploymentPlan]:
    """Plan what to serve; where that is not possible any more, plan what is on the disk.

    Raises:
        ConfigError: if the configuration is wrong.
        StartError: if a model can't be built or inspected.
    """
    make = partial(make_plan, log=log, probes=probes, links=links)
    try:
        config = with_versions(amend(first.base, first.amendments))
        matrix = first.amendments.matrix
        preferred = AllocationMatrix.from_json(matrix) if matrix else None
        profile_s = config.placement.profile_s
        return first, make(config, profile_s=profile_s, preferred=preferred, formers=first.formers)
    except (ConfigError, StartError) as error:
        if first.on_disk is None:
            raise
        _log.error("what was served last can't be served any more: %s", error)
    first = FirstState(first.on_disk)
    config = with_versions(first.base)
    return first, make(config, profile_s=config.placement.profile_s)
