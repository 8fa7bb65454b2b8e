"""Has the allocation follow the traffic: the loop around the controller.

Runs in the supervisor's event loop. Traffic that the front-end reports and devices whose workers
are down flow in; requests for another matrix flow out to the queue of changes, one at a time. The
search itself runs in a child process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence

from server.control import ChangeResult, PlaceRequest
from server.deployment.placement import placement_problem, search_tolerance
from server.deployment.plan import DeploymentPlan
from server.following.controller import Controller, FollowLimits
from server.following.search import Candidate, search_in_child
from server.following.traffic import Traffic
from server.inference.spec import ModelSpec

__all__ = ["Follower", "stages_of"]

_log = logging.getLogger(__name__)

_INTERVAL_S = 1.0
#: What an instance takes to load, until it was measured.
_LOAD_S = 5.0


def stages_of(models: Sequence[ModelSpec]) -> dict[str, list[list[str]]]:
    """Return, by a model's internal name, the members of each of its stages: one if no cascade."""
    stages: dict[str, list[list[str]]] = {}
    for model in models:
        spec, before = model.served.spec, 0
        stages[model.served.name] = []
        for mask in spec.stages or (spec.mask,):
            own = mask & ~before
            names = zip(spec.members, model.members, strict=True)
            stages[model.served.name].append([name for at, name in names if own >> at & 1])
            before = mask
    return stages


class Follower:
    """Follows the traffic of the generation that is served.

    `change` makes a change, `find_down` tells the devices whose workers are down.
    """

    def __init__(
        self,
        change: Callable[[PlaceRequest], Awaitable[ChangeResult]],
        find_down: Callable[[], Collection[str]],
    ) -> None:
        self._change = change
        self._find_down = find_down
        self._generation = 0
        self._controller: Controller | None = None

    def serve(self, generation: int, plan: DeploymentPlan) -> None:
        """That generation is served from now on; it is followed if its configuration says so."""
        self._generation = generation
        if not plan.is_followed:
            self._controller = None
            return
        if self._controller is None:
            self._controller = Controller(load_s=_LOAD_S)
        self._controller.serve(
            generation,
            limits=_limits(plan),
            problem=placement_problem(
                plan.config, plan.models.members, plan.all_devices, plan.found
            ),
            stages=stages_of(plan.composition.models),
            matrix=plan.matrix,
            now=time.monotonic(),
        )

    def observe(self, traffic: Traffic) -> None:
        """Note what the front-end reports."""
        if self._controller is not None:
            self._controller.observe(traffic, time.monotonic())

    async def run(self) -> None:
        """Follow until cancelled; what goes wrong is logged, and does not end it."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            if self._controller is not None:
                try:
                    await self._follow(self._controller)
                except Exception:  # a fault of ours: the server goes on as it is
                    _log.exception("following the traffic failed")
                    self._controller = None

    async def _follow(self, controller: Controller) -> None:
        generation, now = self._generation, time.monotonic()
        down = set(self._find_down())
        for device in down - controller.lost:
            controller.lose(device, now)
        for device in controller.lost & controller.placed - down:
            controller.regain(device)
        task = controller.next_task(now)
        if task is None:
            return
        found = await asyncio.to_thread(search_in_child, task)
        if generation != self._generation:
            return  # something else has changed, for which this is no answer
        decision = controller.decide(task, found, time.monotonic())
        level = logging.INFO if decision.is_notable else logging.DEBUG
        what = "stays as it is" if decision.move is None else "changes"
        _log.log(level, "the allocation %s: %s", what, decision.reason)
        if decision.move is not None:
            await self._apply(controller, decision.move, decision.reason)

    async def _apply(self, controller: Controller, move: Candidate, reason: str) -> None:
        started = time.monotonic()
        result = await self._change(PlaceRequest(move.matrix, reason))
        if result.error:
            _log.warning("the allocation could not be changed: %s", result.error)
            controller.refused(time.monotonic())
        else:
            controller.changed(move, time.monotonic() - started)


def _limits(plan: DeploymentPlan) -> FollowLimits:
    section = plan.config.placement
    return FollowLimits(
        gain=section.follow_gain,
        window_s=section.follow_window_s,
        pause_s=section.follow_pause_s,
        payback_s=section.follow_payback_s,
        search_s=section.time_limit_s,
        tolerance=search_tolerance(plan.found),
        fill=section.spare_memory == "fill",
    )
