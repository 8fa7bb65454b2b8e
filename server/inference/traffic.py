"""Reports what was served, for the history and for a placement that follows the traffic.

Runs in the front-end's event loop, every few seconds. The counters of models, members and instances
flow in, a `Traffic` (what they have counted since the last one) flows out to the supervisor.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import zip_longest

from server.following.traffic import InstanceTraffic, ModelTraffic, Traffic
from server.inference.inference import Inference
from workers.runtime.spec import GenerationSpec

__all__ = ["TrafficReporter", "difference"]

_INTERVAL_S = 2.0


class TrafficReporter:
    """Sends what each generation has served."""

    def __init__(self, inference: Inference, send: Callable[[Traffic], None]) -> None:
        self._inference = inference
        self._send = send
        self._before = Traffic(self._generation.number, 0.0)
        self._since = time.monotonic()

    async def run(self) -> None:
        """Report again and again."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            self.report()

    def report(self) -> None:
        """Report what was served since the last report, if somebody wants to know."""
        if not self._inference.deployments.current.spec.is_observed:
            return
        counted, now = self._counted(), time.monotonic()
        if counted.generation == self._before.generation:
            self._send(difference(counted, self._before, now - self._since))
        self._before, self._since = counted, now

    @property
    def _generation(self) -> GenerationSpec:
        return self._inference.deployments.current.spec.generation

    def _counted(self) -> Traffic:
        """What the counters of the generation that is served say."""
        engine = self._inference.engine
        generation = self._generation
        ended: defaultdict[str, list[int]] = defaultdict(list)
        for spec in generation.arenas:
            for name, counts in engine.arenas[spec.index].ended_stages.items():
                ended[name] = list(map(sum, zip_longest(ended[name], counts, fillvalue=0)))
        models, members = {}, {}
        for name, endpoint in self._inference.endpoints.items():
            counters, served = endpoint.counters, endpoint.model.served
            models[name] = ModelTraffic(
                requests=counters.outcomes["ok"] + counters.outcomes["degraded"],
                rows=counters.rows,
                refused=counters.outcomes["queue_full"],
                degraded=counters.outcomes["degraded"],
                saved=counters.saved,
                ended=tuple(ended[name]),
                seconds=counters.times.whole.sum,
                times=counters.times.whole.counts,
            )
            if endpoint.model.is_member:
                counted = engine.fleet.member_counters[served.arena][served.spec.members[0]]
                members[name] = counted.rows
        instances: dict[str, dict[str, InstanceTraffic]] = {}
        for device, worker in engine.fleet.workers.items():
            own = instances[device] = {}
            for id, placement in worker.placements.items():
                done = worker.counters[id]
                rows, seconds = round(done.rows.sum), done.times.sum
                own[placement.member.name] = InstanceTraffic(
                    done.times.count, rows, seconds, done.rows.counts
                )
        return Traffic(generation.number, 0.0, models, members, instances)


def difference(after: Traffic, before: Traffic, seconds: float) -> Traffic:
    """Return what was counted between two moments of a generation; what did nothing is left out."""
    members = {name: n - before.members.get(name, 0) for name, n in after.members.items()}
    models = {
        name: _model(one, before.models.get(name, ModelTraffic()))
        for name, one in after.models.items()
    }
    instances = {
        device: {
            member: done
            for member, one in own.items()
            if (done := _instance(one, before.instances.get(device, {}).get(member))).batches
        }
        for device, own in after.instances.items()
    }
    return Traffic(
        after.generation,
        seconds,
        {name: one for name, one in models.items() if one.requests or one.refused},
        {name: rows for name, rows in members.items() if rows},
        {device: own for device, own in instances.items() if own},
    )


def _model(after: ModelTraffic, before: ModelTraffic) -> ModelTraffic:
    return ModelTraffic(
        requests=after.requests - before.requests,
        rows=after.rows - before.rows,
        refused=after.refused - before.refused,
        degraded=after.degraded - before.degraded,
        saved=after.saved - before.saved,
        ended=_less(after.ended, before.ended),
        seconds=after.seconds - before.seconds,
        times=_less(after.times, before.times),
    )


def _instance(after: InstanceTraffic, before: InstanceTraffic | None) -> InstanceTraffic:
    old = before or InstanceTraffic()
    return InstanceTraffic(
        after.batches - old.batches,
        after.rows - old.rows,
        after.seconds - old.seconds,
        _less(after.sizes, old.sizes),
    )


def _less(after: tuple[int, ...], before: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(new - old for new, old in zip_longest(after, before, fillvalue=0))
