"""Brings deployments up, switches to them and lets them go, as the supervisor says.

Runs in the front-end's event loop. Commands flow in; reports flow out as soon as what they say is
so, which is looked at every few milliseconds while something is awaited.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import assert_never

from server.inference.commands import Changes as CountChanges
from server.inference.commands import (
    Drained,
    Held,
    Hold,
    Prepare,
    Prepared,
    Release,
    Released,
    Report,
    Resume,
    Switch,
    Switched,
)
from server.inference.endpoint import Deployment
from server.inference.inference import Inference
from server.inference.spec import DeploymentSpec
from server.inference.validation import ValidationFailed, validate

__all__ = ["Changes"]

_log = logging.getLogger(__name__)

_INTERVAL_S = 0.005

ChangeCommand = Prepare | Switch | Release | Hold | Resume | CountChanges


class Changes:
    """The changes of what is served; `send` sends a report, and must not wait."""

    def __init__(
        self,
        inference: Inference,
        send: Callable[[Report], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._inference = inference
        self._deployments = inference.deployments
        self._engine = inference.engine
        self._send = send
        self._loop = loop
        #: What is awaited of a generation, and what happens then; by generation.
        self._awaited: dict[int, tuple[Callable[[], bool], Callable[[], None]]] = {}
        self._is_looking = False
        self._held_for = 0
        self._validations: dict[int, asyncio.Task[None]] = {}

    def execute(self, command: ChangeCommand) -> None:
        """Execute a command."""
        match command:
            case Prepare():
                self._prepare(command.deployment)
            case Switch():
                self._switch(command.generation)
            case Release():
                self._release(command.generation)
            case Hold():
                self._hold(command)
            case Resume():
                self._resume()
            case CountChanges():
                self._inference.changes = command.counts
            case _:
                assert_never(command)

    def _prepare(self, spec: DeploymentSpec) -> None:
        """Make a deployment ready; reports `Prepared` once all of its instances are."""
        generation = spec.generation
        unknown = spec.instances.keys() - self._engine.fleet.workers.keys()
        try:
            if unknown:
                raise OSError(f"there is no worker for {', '.join(sorted(unknown))}")
            deployment = self._deployments.add(spec)
        except OSError as error:
            self._send(Prepared(generation.number, f"the front-end can't serve it: {error}"))
            return
        self._await(
            generation.number,
            lambda: self._engine.is_ready(generation),
            lambda: self._validate(deployment),
        )

    def _switch(self, generation: int) -> None:
        """Have all new requests go to a prepared deployment; reports `Switched`, then `Drained`."""
        former = self._deployments.switch(generation)
        self._inference.rollouts.replace(self._deployments.current.spec.rollouts)
        self._send(Switched(generation))
        self._await(
            former.generation,
            lambda: self._deployments.is_idle(former),
            lambda: self._send(Drained(former.generation)),
        )

    def _release(self, generation: int) -> None:
        """Drop a deployment that is not current, if it is known; reports `Released`."""
        deployment = self._deployments.get(generation)
        if deployment is None:
            self._send(Released(generation))
            return
        if (validation := self._validations.get(generation)) is not None:
            validation.cancel()
        self._drop(deployment, Released(generation))

    def _hold(self, hold: Hold) -> None:
        """Let go of what must make room for a generation that comes; reports `Held`."""
        self._held_for = hold.generation
        is_over = self._deployments.hold(hold.models, hold.members)
        self._await(hold.generation, is_over, lambda: self._send(Held(hold.generation)))

    def _resume(self) -> None:
        """Hold nothing back any more: there will be no switch."""
        self._awaited.pop(self._held_for, None)
        self._deployments.resume()

    def _drop(self, deployment: Deployment, report: Report) -> None:
        def remove() -> None:
            self._deployments.remove(deployment)
            self._send(report)

        self._await(deployment.generation, lambda: self._deployments.is_idle(deployment), remove)

    # -- validation ---------------------------------------------------------------------------

    def _validate(self, deployment: Deployment) -> None:
        generation = deployment.generation
        if not deployment.spec.validations:
            self._send(Prepared(generation))
            return
        task = self._loop.create_task(self._compare(deployment))
        self._validations[generation] = task
        task.add_done_callback(lambda _: self._validations.pop(generation))

    async def _compare(self, deployment: Deployment) -> None:
        """Ask the new models and the present ones; those that are new altogether have none."""
        generation = deployment.generation
        try:
            for spec in deployment.spec.validations:
                new = deployment.endpoints[spec.model]
                present = self._deployments.find_present(new.model)
                if present is None:
                    continue
                if not present.is_open:
                    raise ValidationFailed(
                        f"{spec.key}.validate: there is no room for the present model beside the "
                        "new one, so they can't be compared"
                    )
                _log.info("%s", await validate(self._inference, spec, present, new))
        except ValidationFailed as error:
            self._drop(deployment, Prepared(generation, str(error)))
        else:
            self._send(Prepared(generation))

    # -- waiting ------------------------------------------------------------------------------

    def _await(self, generation: int, is_so: Callable[[], bool], then: Callable[[], None]) -> None:
        """Do something once something is so; in place of what was awaited of a generation."""
        self._awaited[generation] = is_so, then
        self._look()

    def _look(self) -> None:
        for generation in list(self._awaited):
            is_so, then = self._awaited.get(generation, (lambda: False, lambda: None))
            if is_so():
                del self._awaited[generation]
                then()
        if self._awaited and not self._is_looking:
            self._is_looking = True
            self._loop.call_later(_INTERVAL_S, self._look_again)

    def _look_again(self) -> None:
        self._is_looking = False
        self._look()
