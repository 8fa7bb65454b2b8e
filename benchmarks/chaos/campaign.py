"""A campaign injects faults, one after another, under load; the server must recover from each.

Runs in a process of its own beside the server. The seed decides the faults and the requests; the
exact moment at which a fault hits is chance.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import psutil

from benchmarks.chaos.changes import Changes
from benchmarks.chaos.client import Ask, HttpLane
from benchmarks.chaos.faults import Target, draw, inject
from benchmarks.chaos.judging import Judge, Verdict
from benchmarks.chaos.load import Lanes, Load, payload
from benchmarks.chaos.processes import FRONT_END, Census, Processes
from benchmarks.chaos.scene import Model, Scene
from benchmarks.errors import BenchmarkError

__all__ = ["Campaign", "Happened", "Plan"]

_BASELINE_S = 20.0
_READY_EVERY_S = 0.05
_LEAST_RATE = 0.9


class Happened(msgspec.Struct, frozen=True):
    """What a fault did.

    Attributes:
        kind: of the fault.
        harm_s: how long the harm took, e.g. until a hang was found.
        well_s: from its end until every process lived, the server was ready and every model's
            canary was right.
        rate_s: from its end until throughput was back; None if the next one came before.
        wrong: answers that were not right, since the fault before.
        lost: requests without an answer, or with a late one.
        untrue: failures that there was no reason for, and readiness that was not so.
        violations: all these in words.
    """

    kind: str
    harm_s: float
    well_s: float
    rate_s: float | None
    wrong: int
    lost: int
    untrue: int
    violations: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """How a campaign goes.

    Attributes:
        seed: decides everything that is left to chance.
        faults: how many.
        kinds: of faults that may be drawn.
        later_kinds: those of the second half, if they are others.
        clients: of the load.
        pause_s: of a client between two requests.
        margin_s: how much later than its deadline an answer may be.
        within_s: how soon all must be well after a fault.
        rate_within_s: how soon the throughput must be back, None if that is only told.
        quiet_s: without faults, after each.
        calibration_s: under load without faults, at the start.
        spacing_s: from the start of one to that of the next, at least.
        period_s: if given, a client asks so often, instead of pausing.
        every: so many faults, everything is counted without load and compared with the start.
    """

    seed: int
    faults: int
    kinds: tuple[str, ...]
    clients: int = 12
    pause_s: float = 0.02
    margin_s: float = 2.0
    within_s: float = 15.0
    rate_within_s: float | None = None
    quiet_s: float = 1.0
    spacing_s: float = 0.0
    period_s: float = 0.0
    calibration_s: float = 3.0
    every: int = 25
    later_kinds: tuple[str, ...] = ()


class Campaign:
    """Injects faults into one server.

    Args:
        plan: how.
        scene: what it serves.
        addresses: of HTTP and of gRPC.
        processes: of the server.
        changes: of what it serves.
        on_fault: called with each fault.

    Attributes:
        happened: so far.
        first, last: what there was at the start and in the end.
        rate: answers per second without faults.
    """

    def __init__(
        self,
        plan: Plan,
        scene: Scene,
        addresses: tuple[str, str],
        processes: Processes,
        *,
        changes: Changes,
        on_fault: Callable[[Happened], None] = lambda happened: None,
    ) -> None:
        self._plan, self._scene, self._addresses = plan, scene, addresses
        self._processes, self._on_fault = processes, on_fault
        choose = random.Random(plan.seed)
        halves = plan.kinds, plan.later_kinds or plan.kinds
        self._kinds = [
            draw(choose, halves[2 * number >= plan.faults]) for number in range(plan.faults)
        ]
        serials = itertools.count(1)
        self._serial: Callable[[], int] = lambda: next(serials)
        self._judge = Judge(plan.margin_s)
        self.load = Load(
            scene,
            addresses,
            self._judge,
            clients=plan.clients,
            seed=plan.seed,
            serial=self._serial,
            pause_s=plan.pause_s,
            period_s=plan.period_s,
        )
        self._target = Target(
            scene, addresses, processes, changes, self._judge, choose, self._serial
        )
        self._canaries: dict[str, Lanes] = {}
        self._watching, self._waiting = HttpLane(addresses[0]), HttpLane(addresses[0])
        self.happened: list[Happened] = []
        self.first: Census | None = None
        self.last: Census | None = None
        self.rate = 0.0

    @property
    def verdict(self) -> Verdict:
        """What was found so far."""
        return self._judge.verdict

    def complain(self, what: str) -> None:
        """Note something that is not as it should be."""
        self._judge.complain(what)

    async def run(self) -> None:
        """Go through the whole plan.

        Raises:
            BenchmarkError: if the server is gone, or an answer can't be understood.
        """
        watcher = asyncio.create_task(self._watch_readiness())
        try:
            await self._count(first=True)
            await self._calibrate()
            for number, kind in enumerate(self._kinds):
                if number and number % self._plan.every == 0:
                    await self.load.stop()
                    await self._count()
                    self.load.start()
                    await asyncio.sleep(self._plan.quiet_s)
                due = time.monotonic() + self._plan.spacing_s
                await self._one(kind)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self.load.stop()
            await self._count()
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
            self._watching.close()
            self._waiting.close()
            await asyncio.gather(*(lanes.close() for lanes in self._canaries.values()))

    async def _calibrate(self) -> None:
        """Learn the rate without faults."""
        self.load.start()
        start = time.monotonic()
        await asyncio.sleep(self._plan.calibration_s)
        self.rate = self.load.rates.typical(start + 0.5, time.monotonic())

    async def _one(self, kind: str) -> None:
        """One fault, and what comes of it."""
        verdict = self.verdict
        before = verdict.wrong, verdict.lost, verdict.untrue
        known = len(verdict.violations)
        began = time.monotonic()
        await inject(self._target, kind)
        ended = time.monotonic()
        await self._wait_well(kind)
        well = time.monotonic()
        await asyncio.sleep(self._plan.quiet_s)
        self.load.check()
        rate_s = await self._wait_rate(kind, ended)
        violations = tuple(verdict.violations[known:])
        happened = Happened(
            kind,
            harm_s=ended - began,
            well_s=well - ended,
            rate_s=rate_s,
            wrong=verdict.wrong - before[0],
            lost=verdict.lost - before[1],
            untrue=verdict.untrue - before[2],
            violations=violations,
        )
        self.happened.append(happened)
        self._on_fault(happened)

    async def _wait_rate(self, kind: str, fault: float) -> float | None:
        """How long after a fault the throughput was back; wait for it if the plan says so."""
        least, limit_s = _LEAST_RATE * self.rate, self._plan.rate_within_s
        while True:
            now = time.monotonic()
            back_s = self.load.rates.back_after(fault, now, least)
            if limit_s is None or (back_s is not None and back_s <= limit_s):
                return back_s
            if now > fault + limit_s + 1.0:
                self._judge.complain(f"{kind}: throughput was not back within {limit_s:g} s")
                return back_s
            await asyncio.sleep(0.1)

    async def _wait_well(self, kind: str) -> None:
        """Wait until every process lives, the server is ready and every canary is right."""
        deadline = time.monotonic() + self._plan.within_s
        while True:
            if not self._processes.is_alive:
                raise BenchmarkError(f"{kind}: the server has ended")
            if missing := await self._missing():
                if time.monotonic() > deadline:
                    self._judge.complain(f"{kind}: {missing} after {self._plan.within_s:g} s")
                    return
                await asyncio.sleep(0.02)
                continue
            self._judge.away.end(time.monotonic())
            self._judge.full.end(time.monotonic())
            return

    async def _missing(self) -> str:
        """What is not well yet, "" if all is."""
        here = self._processes.now()
        if gone := [role for role in self._processes.roles if role not in here]:
            return f"no {', '.join(gone)}"
        if await self._ready(self._waiting) != 200:
            return "not ready"
        # One that has a deadline may be refused, as long as there are others before it.
        models = [*self._scene.models.values(), *self._scene.poisoned.values()]
        models = [model for model in models if not model.deadline_s]
        right = await asyncio.gather(*map(self._canary, models))
        if wrong := [
            model.name for model, is_right in zip(models, right, strict=True) if not is_right
        ]:
            return f"no right answer from {', '.join(wrong)}"
        return ""

    async def _canary(self, model: Model) -> bool:
        """Whether a model answers a request of which the answer is known."""
        if model.name not in self._canaries:
            self._canaries[model.name] = Lanes(*self._addresses, self._judge)
        for way in ("raw", "grpc"):
            ask = Ask(model.name, payload(model, self._serial(), 2), {})
            (reply,) = await self._canaries[model.name].ask(model, [ask], way)
            if reply.status != 200:
                return False
        return True

    async def _ready(self, lane: HttpLane) -> int:
        try:
            async with asyncio.timeout(self._plan.within_s):
                return await lane.get("/v2/health/ready")
        except TimeoutError:
            return 0

    async def _watch_readiness(self) -> None:
        """Readiness must not falter while the front-end lives: a quorum is never out of reach."""
        while True:
            start = time.monotonic()
            status = await self._ready(self._watching)
            away = self._judge.away.overlap(start, time.monotonic())
            if status != 200 and not away:
                self._judge.complain(f"readiness said {status}")
            await asyncio.sleep(_READY_EVERY_S)

    async def _count(self, *, first: bool = False) -> None:
        """Count descriptors, threads and files without load; they must be what they were."""
        deadline = time.monotonic() + _BASELINE_S
        if first:
            await self._warm_up()
        while True:
            more = "somebody died"
            with contextlib.suppress(psutil.Error):
                self.last = self._processes.census()
                if self.first is None:
                    self.first = self.last
                more = self.last.more_than(self.first)
            if not more:
                return
            if time.monotonic() > deadline:
                self._judge.complain(f"not as at the start: {more}")
                return
            await asyncio.sleep(0.2)

    async def _warm_up(self) -> None:
        """Have everything done once that opens descriptors or starts threads for good."""
        self.load.start()
        await asyncio.sleep(1.0)
        await self._wait_well("the start")
        await self.load.stop()
        await self._wait_settled(FRONT_END)

    async def _wait_settled(self, role: str) -> None:
        """Wait until a process has closed what it had open for clients that went."""
        last, since = -1, time.monotonic()
        deadline = since + _BASELINE_S
        while time.monotonic() < min(deadline, since + 1.0):
            fds = self._processes.fds(role)
            if fds != last:
                last, since = fds, time.monotonic()
            await asyncio.sleep(0.1)
