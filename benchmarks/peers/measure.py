"""Servers of one case in turn: what each does in each round, and what that is beside ours.

All run at once, and those that are not being measured are idle; those that keep a core busy even so
run only in their turns. The order changes from round to round.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks.errors import BenchmarkError
from benchmarks.figures import PeerCase, PeerLoad, RoleCost, Spread
from benchmarks.limit import Limit, LimitRound, LimitRounds
from benchmarks.members import expected_answer, random_input
from benchmarks.peers.registry import Peer
from benchmarks.peers.running import Asked, System, checkout_name, running_ours, running_peer
from benchmarks.peers.servers.task import Task
from benchmarks.process_cost import ProcessCost, costs_per_request, total
from benchmarks.serving import Case
from benchmarks.wrk import WrkResult, run_wrk
from server.config import load_config
from server.members.inspect import inspect_members
from server.members.sources import model_sources

__all__ = ["LIMIT", "OURS", "Measured", "Plan", "Rounds", "measure_case", "peer_loads", "turns"]

#: Names among those of peers: this project's server, and the members without a server.
OURS, LIMIT = "ours", "limit"

_SEED = 0
_WARM_UP_S = 1


@dataclass(frozen=True)
class Plan:
    """What is measured, and how.

    Attributes:
        peers: the other servers.
        rounds: how often each is measured.
        seconds: of each measurement.
        with_ours: whether this project's server is measured.
        with_limit: whether the members without a server are.
        with_cost: whether what a request costs each process is told.
        checkouts: other copies of this project whose servers are measured, too.
    """

    peers: tuple[Peer, ...]
    rounds: int
    seconds: int
    with_ours: bool = True
    with_limit: bool = True
    with_cost: bool = False
    checkouts: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Measured:
    """A server in one round at one number of connections."""

    result: WrkResult
    cost: tuple[ProcessCost, ...] = ()


@dataclass(frozen=True)
class Contender:
    """A server that is measured.

    Attributes:
        name: in tables.
        start: has it run, for the length of a block.
        is_restless: whether it runs only in its turns.
    """

    name: str
    start: Callable[[], AbstractContextManager[System]]
    is_restless: bool = False


#: Of one case: by server and number of connections, the rounds.
Rounds = dict[tuple[str, int], list[Measured]]

Item = TypeVar("Item")


def turns(items: Sequence[Item], number: int) -> list[Item]:
    """Return the order of a round: each comes first in its turn.

    Args:
        items: what is measured.
        number: of the round, from 0.
    """
    first = number % len(items) if items else 0
    return [*items[first:], *items[:first]]


def measure_case(name: str, case: Case, plan: Plan) -> PeerCase:
    """Measure all servers of a plan in turn.

    A server that can't be installed or started, answers wrongly or fails under load is left out.

    Args:
        name: of the case.
        case: what is served.
        plan: how.

    Raises:
        BenchmarkError: if nothing is left to measure.
    """
    left_out: dict[str, str] = {}
    versions: dict[str, str] = {}
    rounds: Rounds = {}
    limits: list[LimitRound] = []
    with ExitStack() as stack:
        contenders = _residents(_contenders(name, case, plan), case, stack, left_out)
        limit_rounds = _limit(case, plan, stack)
        order: list[Contender | LimitRounds] = [*contenders]
        if limit_rounds:
            order.append(limit_rounds)
        for number in range(plan.rounds):
            print(f"{name}: round {number + 1} of {plan.rounds}", file=sys.stderr, flush=True)
            for one in turns(order, number):
                if isinstance(one, LimitRounds):
                    limits.append(one.measure())
                elif one.name not in left_out:
                    try:
                        versions[one.name] = _turn(one, case, plan, rounds)
                    except BenchmarkError as error:
                        _leave_out(one.name, error, left_out)
    kept = [one.name for one in contenders if one.name not in left_out]
    if not kept:
        raise BenchmarkError(
            "; ".join(": ".join(one) for one in left_out.items()) or "no server is to be measured"
        )
    return PeerCase(
        case=name,
        versions={one: versions[one] for one in kept},
        left_out=left_out,
        limit=limit_rounds.figures() if limit_rounds else None,
        loads=peer_loads(kept, case.connections, rounds, limits),
    )


def _contenders(name: str, case: Case, plan: Plan) -> list[Contender]:
    """Return all servers of a plan, none of which runs yet."""
    asked, task = _asked(case)
    found = [Contender(OURS, partial(running_ours, case, asked, task))] if plan.with_ours else []
    found += [
        Contender(checkout_name(path), partial(running_ours, case, asked, task, path))
        for path in plan.checkouts
    ]
    return found + [
        Contender(
            peer.name, partial(running_peer, peer, peer.task(task, name), asked), peer.is_restless
        )
        for peer in plan.peers
    ]


def _residents(
    contenders: Sequence[Contender], case: Case, stack: ExitStack, left_out: dict[str, str]
) -> list[Contender]:
    """Start those that may run all the time; return all but those that don't start."""
    found = []
    for one in contenders:
        try:
            found.append(one if one.is_restless else _resident(one, case, stack))
        except BenchmarkError as error:
            _leave_out(one.name, error, left_out)
    return found


def _resident(contender: Contender, case: Case, stack: ExitStack) -> Contender:
    with ExitStack() as started:
        system = started.enter_context(contender.start())
        _warm_up(system, case)
        stack.push(started.pop_all())
    return replace(contender, start=lambda: nullcontext(system))


def _warm_up(system: System, case: Case) -> None:
    for connections in case.connections:
        run_wrk(system.address, system.request, connections, _WARM_UP_S)


def _leave_out(name: str, error: BenchmarkError, left_out: dict[str, str]) -> None:
    """Remember why; logs, which may name places, are only printed."""
    left_out[name] = str(error).partition(";")[0]
    print(f"{name} is left out: {error}", file=sys.stderr, flush=True)


def _asked(case: Case) -> tuple[Asked, Task]:
    """Return what is asked, and what a peer is told of the members."""
    config = load_config(case.config)
    members = [
        one
        for one in inspect_members(config)
        if one.name in config.ensembles[case.ensemble].members
    ]
    (tensor,) = members[0].signature.inputs
    row = random_input(tensor, 1, _SEED)
    expected = expected_answer(config, case.ensemble, row)
    task = Task(
        models=tuple(one.source.path for one in members),
        logits=members[0].output.config.kind == "logits",
        model=case.ensemble,
        input=tensor.name,
        shape=tensor.shape,
        outputs=expected.shape[1],
    )
    return Asked(row, expected), task


def _limit(case: Case, plan: Plan, stack: ExitStack) -> LimitRounds | None:
    if not plan.with_limit:
        return None
    limit = stack.enter_context(Limit(model_sources(load_config(case.config))))
    return LimitRounds(limit, plan.seconds, with_split=case.with_split)


def _turn(contender: Contender, case: Case, plan: Plan, rounds: Rounds) -> str:
    """Measure a server in one round; return its version."""
    with contender.start() as system:
        if contender.is_restless:
            _warm_up(system, case)
        for connections in case.connections:
            before = system.usage() if plan.with_cost else {}
            result = run_wrk(system.address, system.request, connections, plan.seconds)
            after = system.usage() if plan.with_cost else {}
            cost = costs_per_request(before, after, result.requests)
            rounds.setdefault((system.name, connections), []).append(Measured(result, cost))
        return system.version


def peer_loads(
    names: Sequence[str],
    connections: Sequence[int],
    rounds: Rounds,
    limits: Sequence[LimitRound],
) -> tuple[PeerLoad, ...]:
    """Summarise the rounds; ratios are of things measured in the same round.

    Args:
        names: of the servers that were measured in all rounds, in the order of the table.
        connections: of the load generator.
        rounds: what they did.
        limits: what the members did without a server; empty if that was not measured.
    """
    ours = {number: rounds[OURS, number] if OURS in names else None for number in connections}
    return tuple(
        _load(name, number, rounds[name, number], ours[number], limits)
        for number in connections
        for name in names
    )


def _load(
    name: str,
    connections: int,
    own: Sequence[Measured],
    ours: Sequence[Measured] | None,
    limits: Sequence[LimitRound],
) -> PeerLoad:
    pairs = [] if ours is None or name == OURS else list(zip(ours, own, strict=True))
    beside = list(zip(own, limits, strict=True)) if limits else []
    return PeerLoad(
        system=name,
        connections=connections,
        requests_per_s=Spread.of([one.result.requests_per_s for one in own]),
        p50_ms=Spread.of([one.result.p50_ms for one in own]),
        p99_ms=Spread.of([one.result.p99_ms for one in own]),
        ours=_spread(a.result.requests_per_s / b.result.requests_per_s for a, b in pairs),
        ours_p50=_spread(a.result.p50_ms / b.result.p50_ms for a, b in pairs),
        of_limit=_spread(one.result.requests_per_s / limit.rows_per_s for one, limit in beside),
        p50_of_split=_spread(
            one.result.p50_ms / limit.split_ms for one, limit in beside if limit.split_ms
        ),
        cost=_costs(own),
    )


def _spread(values: Iterable[float]) -> Spread | None:
    found = list(values)
    return Spread.of(found) if found else None


def _costs(rounds: Sequence[Measured]) -> tuple[RoleCost, ...]:
    """Summarise what a request cost the processes of each role, and all together."""
    by_role: dict[str, list[ProcessCost]] = {}
    for one in rounds:
        together = [total(one.cost)] if len(one.cost) > 1 else []
        for cost in [*one.cost, *together]:
            by_role.setdefault(cost.role, []).append(cost)
    return tuple(
        RoleCost(
            role=role,
            cpu_us=Spread.of([cost.cpu_us for cost in costs]),
            waiting_us=Spread.of([cost.waiting_us for cost in costs]),
            switches=Spread.of([cost.switches for cost in costs]),
        )
        for role, costs in by_role.items()
    )
