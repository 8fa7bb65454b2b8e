"""The faults, and how likely each is. Runs in the campaign's event loop.

A fault is a coroutine function that does its harm and returns when that is done; what becomes of it
is for the campaign to see.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.chaos.changes import Changes
from benchmarks.chaos.client import Ask, GrpcLane, HttpLane, infer_bytes
from benchmarks.chaos.judging import Judge
from benchmarks.chaos.load import Lanes, payload
from benchmarks.chaos.processes import COMBINER, FRONT_END, SUPERVISOR, Processes
from benchmarks.chaos.scene import POISON, Model, Scene

__all__ = ["KILLS", "KINDS", "QUICK", "Target", "draw", "inject"]

_STORM = 150
_VANISHING = 12
_BIG_ROWS = 300
#: The supervisor's patience with a process that does not beat, and then some.
_FOUND_HUNG_S = 30.0
#: Within which a process dies after a change has begun, and within which that must be over.
_MIDDLE_S, _CHANGED_S = 0.3, 60.0


@dataclass(frozen=True)
class Target:
    """What a fault needs to know.

    Attributes:
        scene: what is served.
        addresses: of HTTP and of gRPC.
        processes: of the server.
        changes: of what it serves.
        judge: of replies.
        choose: draws what is left open.
        serial: gives numbers that no payload had yet.
    """

    scene: Scene
    addresses: tuple[str, str]
    processes: Processes
    changes: Changes
    judge: Judge
    choose: random.Random
    serial: Callable[[], int]

    def payload(self, model: Model, rows: int) -> Any:
        """Rows that nobody else has."""
        return payload(model, self.serial(), rows)


# -- processes ---------------------------------------------------------------------------------


async def _kill_worker(target: Target) -> None:
    target.processes.send(target.choose.choice(target.processes.workers), signal.SIGKILL)


async def _kill_combiner(target: Target) -> None:
    target.processes.send(COMBINER, signal.SIGKILL)


async def _kill_front_end(target: Target) -> None:
    target.judge.away.begin(time.monotonic())
    target.processes.send(FRONT_END, signal.SIGKILL)


async def _kill_all_but_front_end(target: Target) -> None:
    for role in (COMBINER, *target.processes.workers):
        target.processes.send(role, signal.SIGKILL)


async def _hang(target: Target, role: str) -> None:
    """Stop a process for good: somebody must see that it hangs."""
    pid = target.processes.send(role, signal.SIGSTOP)
    deadline = time.monotonic() + _FOUND_HUNG_S
    while pid and any(process.pid == pid for process in target.processes.now().values()):
        if time.monotonic() > deadline:
            target.judge.complain(f"nobody found that {role} hangs")
            return
        await asyncio.sleep(0.05)


async def _hang_worker(target: Target) -> None:
    await _hang(target, target.choose.choice(target.processes.workers))


async def _hang_combiner(target: Target) -> None:
    await _hang(target, COMBINER)


async def _hang_front_end(target: Target) -> None:
    target.judge.away.begin(time.monotonic())
    await _hang(target, FRONT_END)


async def _pause(target: Target, role: str) -> None:
    """Stop a process for less time than would make it hang."""
    target.processes.send(role, signal.SIGSTOP)
    await asyncio.sleep(target.choose.uniform(0.05, 1.0))
    target.processes.send(role, signal.SIGCONT)


async def _pause_worker(target: Target) -> None:
    await _pause(target, target.choose.choice(target.processes.workers))


async def _pause_combiner(target: Target) -> None:
    await _pause(target, COMBINER)


async def _pause_front_end(target: Target) -> None:
    await _pause(target, FRONT_END)


async def _pause_supervisor(target: Target) -> None:
    await _pause(target, SUPERVISOR)


# -- other deployments -------------------------------------------------------------------------


async def _reload(target: Target) -> None:
    """Go to another deployment; what comes up must be told."""
    await _change(target, ())


async def _reload_and_kill(target: Target) -> None:
    """Go to another deployment, which a death in the middle of it may undo."""
    await _change(target, (FRONT_END, COMBINER, *target.processes.workers))


async def _change(target: Target, mortal: Sequence[str]) -> None:
    changes, shifts = target.changes, target.judge.shifts
    former, shift = changes.shift, float(target.serial() % 997 + 1)
    shifts.begin(shift, time.monotonic())
    position = changes.write(shift)
    target.processes.send(SUPERVISOR, signal.SIGHUP)
    if mortal:
        role = target.choose.choice(mortal)
        await asyncio.sleep(target.choose.uniform(0.0, _MIDDLE_S))
        if role == FRONT_END:
            target.judge.away.begin(time.monotonic())
        target.processes.send(role, signal.SIGKILL)
    came_up = await changes.wait(position, _CHANGED_S)
    if came_up is None or (not came_up and not mortal):
        target.judge.complain("a change did not come up")
    if came_up is not None and shift != former:
        shifts.end(former if came_up else shift, time.monotonic())
    changes.shift = shift if came_up else former


# -- rows that hurt ----------------------------------------------------------------------------


async def _poison(target: Target, fail: str) -> None:
    """A row that its member fails on, among others that it does not fail on."""
    model = target.scene.poisoned[fail]
    lanes = Lanes(*target.addresses, target.judge)
    asks = []
    for poisoned in (True, False):
        x = target.payload(model, target.choose.randint(1, 4))
        if poisoned:
            x[target.choose.randrange(len(x)), 0] = POISON
        asks.append(Ask(model.name, x, {}))
    try:
        way = target.choose.choice(("raw", "json", "grpc", "stream"))
        await lanes.ask(model, asks, way)
    finally:
        await lanes.close()


def _row(fail: str) -> Callable[[Target], Awaitable[None]]:
    """Return the fault of a row on which a member fails so."""

    async def fault(target: Target) -> None:
        await _poison(target, fail)

    return fault


# -- clients -----------------------------------------------------------------------------------


def _any_model(target: Target) -> Model:
    return target.choose.choice(list(target.scene.models.values()))


async def _clients_vanish(target: Target) -> None:
    """Clients that go: in the middle of their body, or before their answer is there."""
    target.judge.full.begin(time.monotonic())
    grpc = GrpcLane(target.addresses[1])
    going: list[Awaitable[None]] = []
    for number in range(_VANISHING):
        model = _any_model(target)
        ask = Ask(model.name, target.payload(model, target.choose.choice((1, 5, _BIG_ROWS))), {})
        if number % 3 == 0:
            going.append(grpc.vanish(ask, target.choose.uniform(0.0, 0.05)))
            continue
        request = infer_bytes(ask, as_json=number % 2 == 0)
        after = target.choose.choice((len(request), target.choose.randrange(1, len(request))))
        going.append(HttpLane(target.addresses[0]).vanish(request, after_bytes=after))
    await asyncio.gather(*going)
    await grpc.close()


async def _storm(target: Target) -> None:
    """More at once than there is room for: some of it is refused."""
    target.judge.full.begin(time.monotonic())
    lanes = [Lanes(*target.addresses, target.judge) for _ in range(_STORM)]
    try:
        asking = []
        for one in lanes:
            model = _any_model(target)
            asks = [Ask(model.name, target.payload(model, target.choose.randint(1, 60)), {})]
            asking.append(one.ask(model, asks, target.choose.choice(("raw", "json"))))
        await asyncio.gather(*asking)
    finally:
        await asyncio.gather(*(one.close() for one in lanes))


async def _slow_member(target: Target) -> None:
    """A crowd for the one member that is slow: deadlines pass, quorums answer."""
    model = target.scene.models["deadline"]
    lanes = [Lanes(*target.addresses, target.judge) for _ in range(8)]
    try:
        await asyncio.gather(
            *(
                one.ask(model, [Ask(model.name, target.payload(model, 8), {})], "raw")
                for one in lanes
            )
        )
    finally:
        await asyncio.gather(*(one.close() for one in lanes))


Fault = Callable[[Target], Awaitable[None]]
#: What there is, with how often it is drawn.
KINDS: dict[str, tuple[Fault, int]] = {
    "kill a worker": (_kill_worker, 14),
    "kill the combiner": (_kill_combiner, 8),
    "kill the front-end": (_kill_front_end, 6),
    "kill all but the front-end": (_kill_all_but_front_end, 4),
    "hang a worker": (_hang_worker, 3),
    "hang the combiner": (_hang_combiner, 2),
    "hang the front-end": (_hang_front_end, 1),
    "pause a worker": (_pause_worker, 6),
    "pause the combiner": (_pause_combiner, 5),
    "pause the front-end": (_pause_front_end, 5),
    "pause the supervisor": (_pause_supervisor, 4),
    "reload": (_reload, 8),
    "reload and kill": (_reload_and_kill, 8),
    "a row ends its worker": (_row("exit"), 4),
    "a row hangs its worker": (_row("hang"), 3),
    "a row makes its member raise": (_row("raise"), 6),
    "a row makes its member answer NaN": (_row("nan"), 6),
    "a row takes too much memory": (_row("alloc"), 6),
    "a row makes a Python member raise": (_row("python raise"), 4),
    "a row makes a Python member print": (_row("python print"), 3),
    "a row makes a Python member leak": (_row("python leak"), 3),
    "a row ends the process of a Python member": (_row("python exit"), 3),
    "a row hangs a Python member": (_row("python hang"), 2),
    "clients vanish": (_clients_vanish, 8),
    "a storm of requests": (_storm, 6),
    "a crowd for a slow member": (_slow_member, 4),
}
#: Those of the bar for deaths.
KILLS = ("kill a worker", "kill the combiner")
#: Those that nobody has to wait for long.
QUICK = tuple(name for name in KINDS if "hang" not in name and not name.startswith("a row ends"))


async def inject(target: Target, kind: str) -> None:
    """Do the harm, and return when it is done."""
    await KINDS[kind][0](target)


def draw(choose: random.Random, kinds: Sequence[str]) -> str:
    """One of these kinds, as often as its weight says."""
    return choose.choices(kinds, [KINDS[kind][1] for kind in kinds])[0]
