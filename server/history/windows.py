"""A window of what was served, and figures of one or many of them.

Pure. Windows flow in, as the supervisor recorded them or as the database has them; rates, times
and shares flow out, for `ensembled history`, for selection, and for placement.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from server.following.traffic import InstanceTraffic, ModelTraffic, Traffic, total
from workers.runtime.spec import ModelSource

__all__ = ["Production", "Served", "Window", "model_key", "production", "quantile"]

#: A rate that is exceeded in one of twenty windows.
_BUSY = 0.95


class Window(msgspec.Struct, frozen=True):
    """What one deployment has served for some time.

    Attributes:
        started: when it began, as Unix time.
        seconds: how long it was.
        traffic: what was served.
        kinds: of the devices, by name.
        models: by member, which model it was: `model_key`.
    """

    started: float
    seconds: float
    traffic: Traffic
    kinds: dict[str, str] = {}
    models: dict[str, str] = {}

    @property
    def rows_per_s(self) -> float:
        """The rate; a report that came early in a short window may be of a longer time than it."""
        return self.traffic.rows / max(self.seconds, self.traffic.seconds)


class Served(msgspec.Struct, frozen=True):
    """What instances of a model have predicted on a device in many windows.

    Attributes:
        device: its name.
        kind: of the device.
        model: which one it is: `model_key`.
        traffic: all of it, without the sizes of batches.
    """

    device: str
    kind: str
    model: str
    traffic: InstanceTraffic


def model_key(source: ModelSource) -> str:
    """Return what tells a model from others: the same for the same file, whatever it is called."""
    bare = msgspec.structs.replace(source, member="", links="")
    return hashlib.sha256(msgspec.json.encode(bare)).hexdigest()[:16]


@dataclass(frozen=True)
class Production:
    """What many windows say of the load.

    Attributes:
        traffic: all of it.
        rows_per_s: on average over the windows.
        busy_rows_per_s: exceeded in one of twenty windows.
        saved: the share of the members' predictions that cascades and early answers spared.
    """

    traffic: Traffic
    rows_per_s: float
    busy_rows_per_s: float
    saved: float


def production(windows: Sequence[Window]) -> Production:
    """Return what some windows, at least one, say of the load."""
    rates = sorted(one.rows_per_s for one in windows)
    traffic = total(one.traffic for one in windows)
    saved = sum(model.saved for model in traffic.models.values())
    predicted = sum(
        seen.rows for instances in traffic.instances.values() for seen in instances.values()
    )
    return Production(
        traffic=traffic,
        rows_per_s=traffic.rows / sum(one.seconds for one in windows),
        busy_rows_per_s=rates[math.ceil(_BUSY * len(rates)) - 1],
        saved=saved / max(saved + predicted, 1),
    )


def quantile(model: ModelTraffic, share: float, bounds: Sequence[float]) -> float | None:
    """Return the time below which a share of a model's answers stayed, seconds.

    It is interpolated between the two of `bounds` that it lies between, infinite beyond the last
    one, and None without an answer.
    """
    wanted, below = share * sum(model.times), 0
    if not wanted:
        return None
    for place, count in enumerate(model.times):
        if below + count >= wanted and count:
            if place == len(bounds):
                return math.inf
            low = bounds[place - 1] if place else 0.0
            return low + (bounds[place] - low) * (wanted - below) / count
        below += count
    return None
