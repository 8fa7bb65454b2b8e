"""Brings the processes from one deployment to the next, or back: the steps of a change.

Runs in the supervisor. A plan flows in, commands flow out to the children, and their reports and
deaths flow in (`Reports`). The steps: workers of new devices start; workers and combiner load; the
front-end prepares, then switches; the former deployment drains and is unloaded; workers without
instances end. What fails or dies before the switch undoes the change, and the former deployment
goes on serving. From the switch on, the new one is the truth: whatever dies is started with it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Sequence

import msgspec

from server.config import Config
from server.deployment.exchange import Exchange
from server.deployment.plan import DeploymentPlan
from server.deployment.rollouts import rollout_specs
from server.deployment.unserved import unserved_models
from server.deployment.validations import validation_specs
from server.inference.commands import (
    Drained,
    Held,
    Hold,
    Prepare,
    Prepared,
    Release,
    Released,
    Resume,
    Switch,
    Switched,
)
from server.inference.spec import DeploymentSpec
from server.supervision.child import Child, Report
from server.supervision.live import LiveDeployments
from server.supervision.processes import Processes
from server.supervision.reports import Outcome, Reports
from workers.runtime.bootstrap import Started
from workers.runtime.memory import add_range, cut_out
from workers.runtime.spec import DeviceSpec, GenerationSpec, Load, Loaded, Unload, Unloaded

__all__ = ["ChangeFailed", "Transaction", "deployment_spec"]

_log = logging.getLogger(__name__)
#: Libraries may take minutes to load a large model, and can't be interrupted.
_LOAD_S = 300.0
_SWITCH_S = 10.0


class ChangeFailed(Exception):
    """A deployment did not come up; the one before it serves."""


def deployment_spec(
    plan: DeploymentPlan, base: Config, memory_fd: int, number: int
) -> DeploymentSpec:
    """Add the arenas of a deployment, planned from `base`, to the shared memory.

    Raises:
        OSError: if the system refuses it.
    """
    found = plan.composition
    offset, nbytes = add_range(memory_fd, found.arena_bytes)
    generation = GenerationSpec(number, offset, nbytes, found.arenas)
    return DeploymentSpec(
        generation,
        found.instances,
        found.models,
        rollouts=rollout_specs(plan.config),
        validations=validation_specs(plan.config),
        unserved=unserved_models(base, plan.config),
        is_observed=plan.is_followed or plan.config.server.history != "none",
    )


class Transaction:
    """Makes changes, one after another; an observer of all children.

    `drain_s` is how long the next change waits until the one before has drained.
    """

    def __init__(self, processes: Processes, live: LiveDeployments, drain_s: float) -> None:
        self._processes = processes
        self._live = live
        self._drain_s = drain_s
        self._reports = Reports()
        self._number = live.current.generation.number
        self._needed: Collection[Child] = ()  # whose death undoes the change
        self._failure: Outcome | None = None
        self._letting_go: asyncio.Task[None] | None = None
        self._revived: list[Child] = []  # they have loaded nothing but what comes

    # -- of children --------------------------------------------------------------------------

    def on_report(self, child: Child, report: Report) -> None:
        """See `Observer`."""
        self._reports.receive(child, report)

    def on_up(self, child: Child) -> None:
        """See `Observer`."""
        self._reports.receive(child, Started())

    def on_end(self, child: Child, reason: str) -> None:
        """See `Observer`."""
        error = f"{child.name} died" + (f": {reason}" if reason else "")
        if child in self._needed:
            self.undo(error)
        self._reports.end(child, error)

    # -- the change ---------------------------------------------------------------------------

    def undo(self, why: str) -> None:
        """Undo the change that is being made, unless it has come to the switch."""
        if self._failure is not None and not self._failure.done():
            self._failure.set_result(why)
            self._live.coming = None  # at once: it is not for processes that start now

    async def make(self, plan: DeploymentPlan, base: Config, exchange: Exchange) -> None:
        """Go to another deployment; return once it is the current one.

        Raises:
            ChangeFailed: if it does not come up; then everything is as before.
        """
        self._failure = asyncio.get_running_loop().create_future()
        before = self._live.current
        coming: DeploymentSpec | None = None
        self._revived = []
        try:
            await self._wait_former()
            await self._start_workers(plan.devices)
            self._number += 1
            coming = deployment_spec(plan, base, self._processes.memory.spec.fd, self._number)
            self._check_failure()
            self._live.coming = coming
            await self._revive(coming)
            await self._bring_up(coming, exchange)
        except Exception as error:  # a fault of ours, too, leaves nothing half done
            self._live.coming, self._needed = None, ()
            await self._undo(before, coming, exchange)
            if isinstance(error, ChangeFailed | OSError):
                raise ChangeFailed(str(error)) from None
            raise
        for device in plan.devices:
            self._processes.workers[device.name].device = device
        await self._switch()

    async def settle(self) -> None:
        """Wait until the former deployment is gone."""
        if self._letting_go is not None:
            await self._letting_go

    async def _wait_former(self) -> None:
        if self._letting_go is not None:
            await asyncio.wait([self._letting_go], timeout=self._drain_s)
            if not self._letting_go.done():
                number = self._live.draining[0].generation.number if self._live.draining else 0
                raise ChangeFailed(f"generation {number} still answers requests; try again later")

    async def _start_workers(self, devices: Sequence[DeviceSpec]) -> None:
        """Start the workers of new devices; wait until all that are needed are up."""
        processes = self._processes
        missing = [one for one in devices if one.name not in processes.workers]
        if other := [
            one.name for one in processes.devices for new in devices if _is_other(one, new)
        ]:
            raise ChangeFailed(f"devices: {', '.join(other)} can't change; restart the server")
        spare = processes.memory.spec.queues.devices.count("")
        if len(missing) > spare:
            names = ", ".join(device.name for device in missing)
            raise ChangeFailed(
                f"devices: there is space for {spare} more workers, not for those of {names}; "
                "restart the server"
            )
        for device in missing:
            processes.attach(device)
        workers = [processes.workers[device.name] for device in devices]
        up = [worker for worker in workers if not worker.is_down]
        self._needed = {processes.combiner, processes.front_end, *up}
        await self._wait([self._reports.expect(c, Started) for c in self._needed if not c.serves])

    async def _revive(self, coming: DeploymentSpec) -> None:
        """Start the workers that are down anew, with what comes alone."""
        workers = [self._processes.workers[device] for device in coming.instances]
        self._revived = [worker for worker in workers if worker.is_down]
        for worker in self._revived:
            if worker.alive:
                worker.kill()
                await worker.ended.wait()
            started = self._reports.expect(worker, Started)
            worker.due.set()
            await self._wait([started])
        self._needed = {*self._needed, *self._revived}

    async def _bring_up(self, coming: DeploymentSpec, exchange: Exchange) -> None:
        """Have everything loaded, then prepared."""
        processes, number = self._processes, coming.generation.number
        front_end = processes.front_end
        if exchange:
            hold = Hold(number, exchange.waiting, exchange.members)
            await self._wait([self._ask(front_end, hold, Held, number)])
            await self._wait(self._make_room(exchange, coming))
        loads = [self._ask(processes.combiner, Load(coming.generation), Loaded, number)]
        for device, instances in coming.instances.items():
            goes = self._live.current.generation.number if device in exchange.devices else 0
            load = Load(coming.generation, instances, replaces=goes)
            loads.append(self._ask(processes.workers[device], load, Loaded, number))
        await self._wait(loads)
        await self._wait([self._ask(front_end, Prepare(coming), Prepared, number)])

    def _make_room(self, exchange: Exchange, coming: DeploymentSpec) -> list[Outcome]:
        """Have the workers of devices that nothing comes to unload what is served."""
        workers, number = self._processes.workers, self._live.current.generation.number
        return [
            self._ask(worker, Unload(number), Unloaded, number)
            for device in exchange.devices
            if device not in coming.instances and (worker := workers[device]).alive
        ]

    async def _switch(self) -> None:
        """From here on, the new deployment is what every process that starts is told of."""
        front_end, self._needed = self._processes.front_end, ()
        former = self._live.switch()
        drained = self._reports.expect(front_end, Drained, former.generation.number)
        number = self._live.current.generation.number
        switched = self._ask(front_end, Switch(number), Switched, number)
        self._letting_go = asyncio.create_task(self._let_go(former, drained))
        await asyncio.wait([switched], timeout=_SWITCH_S)
        if not switched.done():
            _log.error("front-end does not switch; killing it")
            front_end.kill()  # the next one serves the new deployment, and knows no other

    async def _let_go(self, former: DeploymentSpec, drained: Outcome) -> None:
        """Remove a deployment as soon as no request needs it."""
        await drained  # or the front-end is dead, and with it its clients' requests
        self._live.draining.remove(former)
        await self._unload(former)
        await self._retire()

    async def _undo(
        self, before: DeploymentSpec, coming: DeploymentSpec | None, exchange: Exchange
    ) -> None:
        """Everything as it was before the change."""
        for worker in self._revived:
            worker.kill()  # it has not loaded what is served
        if coming is not None:
            await self._unload(coming)
        if exchange:
            await self._reload(before, exchange)
            self._processes.front_end.write(Resume())
        await self._retire()

    async def _reload(self, before: DeploymentSpec, exchange: Exchange) -> None:
        """Load what went to make room; a worker that can't is started afresh."""
        number = before.generation.number
        loads = {
            worker: self._ask(
                worker, Load(before.generation, before.instances[device]), Loaded, number
            )
            for device in exchange.devices
            if (worker := self._processes.workers.get(device)) is not None and worker.alive
        }
        await _wait_all(loads.values())
        for worker, outcome in loads.items():
            if not outcome.done() or outcome.result():
                worker.kill()

    async def _unload(self, gone: DeploymentSpec) -> None:
        """Have all that may know a deployment drop it, then return its memory."""
        processes, generation = self._processes, gone.generation
        number = generation.number
        asked: dict[Child, Outcome] = {}
        if processes.front_end.alive:
            front_end = processes.front_end
            asked[front_end] = self._ask(front_end, Release(number), Released, number)
        workers = [one for name, one in processes.workers.items() if name in gone.instances]
        for child in (processes.combiner, *workers):
            if child.alive:
                asked[child] = self._ask(child, Unload(number), Unloaded, number)
        await _wait_all(asked.values())
        for child, outcome in asked.items():
            if not outcome.done():
                _log.error("%s does not unload generation %d; killing it", child.name, number)
                child.kill()
        for outcome in asked.values():
            await outcome
        cut_out(processes.memory.spec.fd, generation.offset, generation.nbytes)

    async def _retire(self) -> None:
        """End the workers of devices on which nothing lives any more."""
        processes = self._processes
        for name in [name for name in processes.workers if not self._live.uses(name)]:
            await processes.retire(processes.workers[name])
        processes.memory_watch.follow(processes.devices)
        processes.note_memory(processes.workers.values())

    # -- waiting ------------------------------------------------------------------------------

    def _ask(self, child: Child, command: msgspec.Struct, kind: type, generation: int) -> Outcome:
        outcome = self._reports.expect(child, kind, generation)
        child.write(command)
        return outcome

    def _check_failure(self) -> None:
        if self._failure is not None and self._failure.done():
            raise ChangeFailed(self._failure.result())

    async def _wait(self, outcomes: Collection[Outcome]) -> None:
        """Wait for all; raise `ChangeFailed` as soon as one fails, or the change is undone."""
        assert self._failure is not None
        pending: set[Outcome] = set(outcomes)
        deadline = time.monotonic() + _LOAD_S
        while pending:
            left_s = max(0.0, deadline - time.monotonic())
            done, _ = await asyncio.wait(
                {*pending, self._failure}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise ChangeFailed(f"it took more than {_LOAD_S:.0f} s")
            for outcome in done & pending:
                if error := outcome.result():
                    raise ChangeFailed(error)
            self._check_failure()
            pending -= done


async def _wait_all(outcomes: Collection[Outcome]) -> None:
    if outcomes:
        await asyncio.wait(outcomes, timeout=_LOAD_S)


def _is_other(present: DeviceSpec, new: DeviceSpec) -> bool:
    """Whether a device has been replaced by another one of its name, which a worker can't follow.

    How much memory there is for it may change, unless the worker itself sees to that.
    """
    if not new.virtual:
        new = msgspec.structs.replace(new, memory_bytes=present.memory_bytes)
    return present.name == new.name and present != new
