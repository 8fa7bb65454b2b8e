"""The deployments that are served or prepared, and which model of which one a request goes to.

Runs in the front-end, under every protocol. Deployments come and go by the supervisor's commands;
names and versions flow in, endpoints flow out. Requests that are bound to an endpoint stay there,
also after a switch: an answer never mixes two deployments.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from server.engine.engine import Engine
from server.errors import UnknownModel
from server.inference.door import Door
from server.inference.endpoint import Deployment, Endpoint
from server.inference.requests import InferRequest
from server.inference.spec import DeploymentSpec, ModelSpec

__all__ = ["Deployments"]


class Deployments:
    """All deployments, of which `current` gets the requests.

    What is called by `on_routes` is called whenever names may mean other endpoints than before.
    At most `max_waiting` requests to each model wait while that is held back.
    """

    def __init__(self, spec: DeploymentSpec, engine: Engine, max_waiting: int) -> None:
        self.current = Deployment(spec, {})
        self._known = {self.current.generation: self.current}
        self._engine = engine
        self._door = Door(max_waiting)
        self._observers: list[Callable[[], None]] = []
        self._defaults = self._find_defaults()
        engine.on_available = self._note_available

    def on_routes(self, renew: Callable[[], None]) -> None:
        """Have `renew` called, at a moment when no request is on its way without a pause."""
        self._observers.append(renew)

    # -- requests -----------------------------------------------------------------------------

    def find(self, name: str, version: str = "") -> Endpoint:
        """The endpoint of a model; without a version that of the newest that can answer.

        Raises `UnknownModel`.
        """
        if not version and (endpoint := self._defaults.get(name)) is not None:
            return endpoint
        versions = self.current.versions.get(name, {})
        if version not in versions:
            raise UnknownModel(name, version, tuple(versions))
        return versions[version]

    def is_route(self, endpoint: Endpoint, version: str) -> bool:
        """Whether requests to a model with that version, empty for none, go to an endpoint now."""
        is_default = self._defaults.get(endpoint.model.name) is endpoint
        return endpoint.is_open and (bool(version) or is_default)

    async def enter(
        self,
        endpoint: Endpoint,
        version: str,
        request: InferRequest,
        arrived: float,
        within_s: float = 0.0,
    ) -> Endpoint:
        """Where a request goes whose endpoint is not open: it is looked up, and may have to wait.

        `version` is empty if the client names none; `within_s` is a limit from `arrived` beside
        those of the request and of its model, 0 for none. To be pinned at once.

        Raises:
            UnknownModel: if there is no such model any more.
            QueueFull: if too many wait for it already.
            DeadlineExceeded: if it is held back for too long.
        """
        served, timeout_s = endpoint.model.served, request.parameters.timeout_s
        limits = [limit for limit in (timeout_s, served.deadline_s, within_s) if limit]
        until = arrived + min(limits) if limits else None
        while True:
            found = self.find(endpoint.model.name, version)
            if found.is_open:
                return found
            await self._door.wait(found.model.name, until)

    # -- deployments --------------------------------------------------------------------------

    def add(self, spec: DeploymentSpec) -> Deployment:
        """Add a deployment, which gets no requests yet; raises `OSError` if there is no memory."""
        self._engine.add(spec.generation, spec.instances)
        counters = {name: it for one in self._known.values() for name, it in one.counters.items()}
        deployment = self._known[spec.generation.number] = Deployment(spec, counters)
        return deployment

    @property
    def others(self) -> list[Deployment]:
        """Those that are prepared, or were current and are not idle yet."""
        return [one for one in self._known.values() if one is not self.current]

    def get(self, generation: int) -> Deployment | None:
        """A deployment, None if it is not known."""
        return self._known.get(generation)

    def switch(self, generation: int) -> Deployment:
        """Have new requests go to a deployment that was added; returns the one of before."""
        former, self.current = self.current, self._known[generation]
        for endpoint in former.endpoints.values():
            endpoint.is_open = False
        self._renew_routes()
        self._door.open()
        return former

    def remove(self, deployment: Deployment) -> None:
        """Drop a deployment that is idle and not current."""
        del self._known[deployment.generation]
        self._engine.remove(deployment.spec.generation)

    def find_present(self, model: ModelSpec) -> Endpoint | None:
        """What is served now in the place of a new deployment's model; None if nothing is."""
        return self.current.endpoints.get(model.served.name) or self._defaults.get(model.name)

    def is_idle(self, deployment: Deployment) -> bool:
        """Whether no request is on its way to a deployment or in it, and nothing holds its rows."""
        return not deployment.is_pinned and self._engine.is_idle(deployment.spec.generation)

    def hold(self, models: Collection[str], members: Collection[str]) -> Callable[[], bool]:
        """Have new requests to some models wait, and others do without some members.

        All are internal names. Returns whether nothing that came before needs them any more.
        """
        endpoints = self.current.endpoints
        held = [endpoints[name] for name in models if name in endpoints]
        for endpoint in held:
            endpoint.is_open = False
        before = self._engine.hold(self.current.spec.generation, models, members)

        def is_over() -> bool:
            return (
                before.isdisjoint(self._engine.requests)
                and not any(endpoint.pins for endpoint in held)
                and not self._engine.fleet.uses(members)
            )

        return is_over

    def resume(self) -> None:
        """Hold nothing back any more: there will be no switch."""
        self._engine.hold(self.current.spec.generation, (), ())
        for endpoint in self.current.endpoints.values():
            endpoint.is_open = True
        self._door.open()

    def _note_available(self) -> None:
        """Other members are available than before: another version may have to answer."""
        if self._find_defaults() != self._defaults:
            self._renew_routes()

    def _renew_routes(self) -> None:
        self._defaults = self._find_defaults()
        for renew in self._observers:
            renew()

    def _find_defaults(self) -> dict[str, Endpoint]:
        return {
            name: next((one for one in found if self._can_answer(one)), found[0])
            for name, found in self.current.candidates.items()
        }

    def _can_answer(self, endpoint: Endpoint) -> bool:
        return self._engine.can_answer(endpoint.model.served)
