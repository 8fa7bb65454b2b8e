"""Observed traffic, and the demand of each member that follows from it.

Pure. The front-end fills a `Traffic` every few seconds from its counters; in the supervisor a
window of them becomes rows of each member per row of traffic, what an allocation is searched for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import TypeVar

import msgspec

__all__ = ["InstanceTraffic", "ModelTraffic", "Stages", "Traffic", "demand_of", "total"]

_One = TypeVar("_One")

#: By model, the members of each of its stages: one, if it is no cascade.
Stages = Mapping[str, Sequence[Sequence[str]]]

#: Of a member that no row asks for: it keeps an instance, but none that matters.
_LEAST_DEMAND = 1e-3


class ModelTraffic(msgspec.Struct, frozen=True):
    """Requests to one version of a model.

    Attributes:
        requests: that were answered.
        rows: of these.
        refused: requests that found too much waiting; clients may have sent them again.
        degraded: answered requests that rest on fewer members than they asked for.
        saved: members' predictions that were not needed, by cascades and early answers.
        ended: of a cascade, how many rows ended at each stage.
        seconds: how long the answered requests took, in all.
        times: how many took how long: counts for the bounds of `server.engine.statistics.TIMES_S`,
            and for more than the last one; trailing zeros are left out.
    """

    requests: int = 0
    rows: int = 0
    refused: int = 0
    degraded: int = 0
    saved: int = 0
    ended: tuple[int, ...] = ()
    seconds: float = 0.0
    times: tuple[int, ...] = ()


class InstanceTraffic(msgspec.Struct, frozen=True):
    """Batches of one member on one device, their rows, and the seconds that they took.

    `sizes` counts batches by their rows: for the bounds of `server.engine.statistics.BATCH_ROWS`,
    and for more than the last one; trailing zeros are left out.
    """

    batches: int = 0
    rows: int = 0
    seconds: float = 0.0
    sizes: tuple[int, ...] = ()


class Traffic(msgspec.Struct, frozen=True, tag=True):
    """Front-end to supervisor: what one generation has served for some time.

    Attributes:
        generation: of the deployment.
        seconds: how long that was.
        models: by internal name.
        members: the rows that each predicted, for all models.
        instances: by device and member.
    """

    generation: int
    seconds: float
    models: dict[str, ModelTraffic] = {}
    members: dict[str, int] = {}
    instances: dict[str, dict[str, InstanceTraffic]] = {}

    @property
    def rows(self) -> int:
        """How many rows were answered."""
        return sum(model.rows for model in self.models.values())


def total(observed: Iterable[Traffic]) -> Traffic:
    """Return several observations, one after the other, as one."""
    result = Traffic(0, 0.0)
    for one in observed:
        devices = {**result.instances, **one.instances}
        result = Traffic(
            generation=one.generation,
            seconds=result.seconds + one.seconds,
            models=_sums(result.models, one.models, _sum_models),
            members=dict(Counter(result.members) + Counter(one.members)),
            instances={
                device: _sums(
                    result.instances.get(device, {}), one.instances.get(device, {}), _sum_instances
                )
                for device in devices
            },
        )
    return result


def _sums(
    before: Mapping[str, _One], after: Mapping[str, _One], add: Callable[[_One, _One], _One]
) -> dict[str, _One]:
    both = {name: add(before[name], after[name]) for name in before if name in after}
    return {**before, **after, **both}


def _sum_models(one: ModelTraffic, other: ModelTraffic) -> ModelTraffic:
    return ModelTraffic(
        requests=one.requests + other.requests,
        rows=one.rows + other.rows,
        refused=one.refused + other.refused,
        degraded=one.degraded + other.degraded,
        saved=one.saved + other.saved,
        ended=_sum_counts(one.ended, other.ended),
        seconds=one.seconds + other.seconds,
        times=_sum_counts(one.times, other.times),
    )


def _sum_instances(one: InstanceTraffic, other: InstanceTraffic) -> InstanceTraffic:
    return InstanceTraffic(
        one.batches + other.batches,
        one.rows + other.rows,
        one.seconds + other.seconds,
        _sum_counts(one.sizes, other.sizes),
    )


def _sum_counts(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(sum, zip_longest(one, other, fillvalue=0)))


def demand_of(traffic: Traffic, stages: Stages) -> dict[str, float]:
    """Return the rows of each member per row of traffic; empty if there was none.

    A model asks all members of a stage for the rows that reach it. Of these, a member is spared
    those that were answered early. What was refused for lack of capacity counts as if it had been
    answered, but at most doubles a model's rows: its clients may have tried again. What is missing
    because answers are degraded is not spared: otherwise an overloaded member would seem to be
    asked for less, get fewer devices, and be missing more often. Rows that a member predicts beside
    those (of copies for a roll-out) are asked for, too.
    """
    answered: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    rows = unasked = 0.0
    for name, model in traffic.models.items():
        if name not in stages:
            continue
        factor = 1 + min(model.refused, model.requests) / max(model.requests, 1)
        rows += model.rows * factor
        for members, reached in zip(stages[name], _reached(model, stages[name]), strict=True):
            answered.update(dict.fromkeys(members, reached))
            wanted.update(dict.fromkeys(members, reached * factor))
            unasked += (model.rows - reached) * len(members)
    if not rows:
        return {}
    missing = {
        member: max(asked - traffic.members.get(member, 0), 0.0)
        for member, asked in answered.items()
    }
    spared = 1.0
    if any(model.degraded for model in traffic.models.values()):
        saved = sum(model.saved for model in traffic.models.values()) - unasked
        spared = min(max(saved, 0.0) / max(sum(missing.values()), 1.0), 1.0)
    demand = {}
    for member in dict.fromkeys(name for model in stages.values() for one in model for name in one):
        asked = answered[member]
        share = 1 - spared * missing[member] / asked if asked else 0.0
        beside = max(traffic.members.get(member, 0) - asked, 0.0)
        demand[member] = max((wanted[member] * share + beside) / rows, _LEAST_DEMAND)
    return demand


def _reached(model: ModelTraffic, stages: Sequence[Sequence[str]]) -> list[float]:
    """How many of a model's answered rows reached each stage; all of them, if that is unknown."""
    ended = sum(model.ended)
    if not ended:
        return [float(model.rows)] * len(stages)
    return [model.rows * sum(model.ended[stage:]) / ended for stage in range(len(stages))]
