"""Plans changes of what a server serves, one after another.

Runs in the supervisor, whose thread waits for it; starts nothing but children that inspect. A
request flows in, a `Change` flows out, or an error and nothing has happened. The supervisor brings
the change up, and says so if it came up; then it is the present state, and is kept in case the
server is killed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from allocator.matrix import AllocationMatrix
from server.config import Config, expand
from server.config.amendments import Amendments, amend, amended_by
from server.config.loading import file_paths
from server.control import ChangeRequest, LoadRequest, PlaceRequest, ReloadRequest
from server.deployment.difference import describe_change
from server.deployment.exchange import Exchange, plan_exchange
from server.deployment.plan import DeploymentPlan
from server.deployment.replan import replan
from server.errors import ConfigError
from server.inference.commands import Reload
from server.members.probes import Probes
from server.supervision.config_reloader import ConfigReloader
from server.supervision.saved_state import SavedState, StateFile
from server.versions import public_name
from workers.runtime.spec import RuleSpec

__all__ = ["Change", "ChangePlanner"]


@dataclass(frozen=True)
class Change:
    """What a request makes of the present state.

    Attributes:
        base: the configuration as read, without amendments.
        plan: of the deployment; its arenas and instances have numbers that nothing else ever has.
        lines: what changes, for people; empty if the deployment stays what it is.
        warnings: what has changed in the configuration, but needs a restart.
        exchange: where old and new have no room together.
        reload: what the front-end applies without a new deployment; None for nothing.
    """

    base: Config
    amendments: Amendments
    plan: DeploymentPlan
    lines: tuple[str, ...]
    warnings: tuple[str, ...]
    exchange: Exchange
    reload: Reload | None

    @property
    def is_new(self) -> bool:
        """Whether it is another deployment than the present one."""
        return bool(self.lines)


class ChangePlanner:
    """Knows the present state of a server, and plans the next one.

    Args:
        base: the configuration that the server started with, without amendments.
        amendments: what an earlier server's requests had changed.
        plan: what is served; `probes` made it.
        reloader: reads the configuration again.
        state: where the state is kept.
    """

    def __init__(
        self,
        base: Config,
        amendments: Amendments,
        plan: DeploymentPlan,
        *,
        probes: Probes,
        reloader: ConfigReloader,
        state: StateFile,
    ) -> None:
        self._base = base
        self._amendments = amendments
        self._plan = plan
        self._probes = probes
        self._reloader = reloader
        self._state = state
        self._server = base.server
        self._arenas = len(plan.composition.arenas)
        self._instances = _count_instances(plan)

    @property
    def current(self) -> DeploymentPlan:
        """What is served."""
        return self._plan

    def plan(self, request: ChangeRequest) -> Change:
        """Plan what a request asks for; nothing is changed.

        Raises:
            ConfigError: if the request, or the configuration that it has read, is wrong.
            StartError: if a model can't be fetched, built or inspected.
        """
        base, reload = self._base, None
        warnings: tuple[str, ...] = ()
        if isinstance(request, ReloadRequest):
            self._check_path(request.path)
            base = self._reloader.read()
            reload, warnings = self._reloader.changes(base)
        if isinstance(request, LoadRequest):
            directory = self._state.adopt(request.directory)
            request = msgspec.structs.replace(request, directory=directory)
            if not request.config and not directory:
                base = self._reloader.read_model(base, request.model)
        amendments = amended_by(base, self._amendments, request)
        # What needs a restart stays as it is until then.
        config = expand(amend(base, amendments)).model_copy(update={"server": self._server})
        plan = replan(
            config,
            self._plan,
            probes=self._probes,
            matrix=_matrix(request),
            refreshed=_refreshed(request, config),
            links=self._state.links,
            first_arena=self._arenas,
            first_instance=self._instances,
        )
        lines = describe_change(self._plan, plan)
        exchange = plan_exchange(self._plan, plan) if lines else Exchange()
        if lines:
            self._arenas += len(plan.composition.arenas)
            self._instances += _count_instances(plan)
        else:
            plan = replace(self._plan, models=plan.models)
        told = (*lines, *exchange.describe())
        return Change(base, amendments, plan, told, warnings, exchange, reload)

    def came_up(self, change: Change, generation: int) -> None:
        """Take a change as the present state, which is served as a generation, and keep it."""
        # What was served until now drains, and a worker that restarts loads it again.
        self._state.links.remove_others([*self._plan.models.sources, *change.plan.models.sources])
        self._base, self._amendments, self._plan = change.base, change.amendments, change.plan
        if change.reload is not None:
            self._reloader.accept(change.reload)
        self.save(generation)

    def give_up(self) -> None:
        """Remove what a change has brought that did not come up: the files of a client."""
        self._state.remove_uploads(self._amendments)

    def save(self, generation: int) -> None:
        """Keep the present state."""
        base = self._base
        sources = self._plan.models.member_sources
        self._state.write(
            SavedState.of(base.path, base.document, self._amendments, generation, sources)
        )

    def watched_files(self) -> set[Path]:
        """Return the files, and directories, that the present state was made of."""
        config = self._plan.config
        files = {path for _, path in file_paths(self._base)}
        files |= {path for _, path in file_paths(config)}
        files.add(config.path)
        stamped = [stamp for member in self._plan.models.members for stamp in member.source.stamps]
        stamped += [stamp for rule in _rules(self._plan) for stamp in rule.stamps]
        return files | {Path(stamp.path) for stamp in stamped}

    def _check_path(self, path: str) -> None:
        own = self._base.path
        if path and os.path.realpath(path) != os.path.realpath(own):
            raise ConfigError(f"{path}: this server was started with {own}, and reloads that alone")


def _matrix(request: ChangeRequest) -> AllocationMatrix | None:
    if not isinstance(request, PlaceRequest):
        return None
    try:
        return AllocationMatrix.from_json(request.matrix)
    except ValueError as error:
        raise ConfigError(f"matrix: {error}") from None


def _refreshed(request: ChangeRequest, config: Config) -> set[str] | None:
    """The members whose files are looked at again: all, those of the loaded model, or none."""
    if isinstance(request, ReloadRequest):
        return None
    model = request.model if isinstance(request, LoadRequest) else ""
    return {name for name in config.members if public_name(name).name == model}


def _rules(plan: DeploymentPlan) -> Iterator[RuleSpec]:
    for arena in plan.composition.arenas:
        for ensemble in arena.ensembles:
            yield from ensemble.rules


def _count_instances(plan: DeploymentPlan) -> int:
    return sum(map(len, plan.composition.instances.values()))
