"""What a campaign serves, and what is right: fake members, ensembles of every policy. Pure.

A fake answers with its input plus a number of its own, so an answer tells whose rows it is made of
and which members it rests on. Row 0 of a payload is its number, or the value that a member fails
on.
"""

from __future__ import annotations

import copy
import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["COLUMNS", "POISON", "Floats", "Model", "Scene", "mixed", "steady"]

Floats = npt.NDArray[np.float32]

COLUMNS = 4
#: Members that fail do so on rows that begin with this.
POISON = -1234.0
_CLASS = "benchmarks.chaos.python_member:Adds"
_DEVICES = ("one", "two", "three")
_BATCH = 8
_SLOW_MS = 40.0
_DEADLINE_S = 0.3
#: By the kind of failure, who fails, and where the two are that take their worker with them.
_FAKES = {fail: f"{fail}s" for fail in ("exit", "hang", "raise", "nan", "alloc")}
_CLASSES = {
    f"python {fail}": f"python-{fail}s" for fail in ("exit", "hang", "leak", "print", "raise")
}
_FAILS = _FAKES | _CLASSES
_FAILING_ADD = 30.0
_FAILING_ON = {
    "hangs": ("two",),
    "exits": ("two", "three"),
    "python-hangs": ("two",),
    "python-exits": ("two", "three"),
    "python-leaks": ("three",),
}
#: Each; a member in Python that leaks takes more.
_DEVICE_MIB = 300


@dataclass(frozen=True)
class Model:
    """A served ensemble and what its answers must be.

    Attributes:
        name: clients know it by that.
        adds: by member, in the ensemble's order, what it adds to its input.
        quorum: the fewest members of an answer.
        deadline_s: of every request, 0 if there is none.
        is_softmax: whether members answer with logits, so that the answer is probabilities.
        fails: the members that may fail on poison.
    """

    name: str
    adds: dict[str, float]
    quorum: int
    deadline_s: float = 0.0
    is_softmax: bool = False
    fails: tuple[str, ...] = ()

    def answer(self, x: Floats, members: tuple[str, ...], shift: float = 0.0) -> Floats:
        """What the answer to `x` that rests on these members must be, [rows, COLUMNS].

        All members add `shift` more.
        """
        if self.is_softmax:
            odds = np.exp(x - x.max(axis=1, keepdims=True))
            return np.asarray(odds / odds.sum(axis=1, keepdims=True), np.float32)
        added = math.fsum(self.adds[name] for name in members) / len(members)
        return x + np.float32(added + shift)


@dataclass(frozen=True)
class Scene:
    """A configuration, its placement, and the models that are asked.

    Attributes:
        config: of the server, but for ports.
        allocation: the content of its allocation file.
        models: that healthy requests go to, by name.
        poisoned: that poisonous rows go to, by the kind of failure.
    """

    config: dict[str, Any]
    allocation: dict[str, Any]
    models: dict[str, Model]
    poisoned: dict[str, Model]

    def shifted(self, shift: float) -> dict[str, Any]:
        """The configuration, with its allocation's file, of members that all add `shift` more."""
        config = copy.deepcopy(self.config)
        for member in config["members"].values():
            options = member["fake"] if member["model"] == "fake" else member["model"]["args"]
            options["add"] += shift
        return {**config, "allocation": "allocation.json"}

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of the devices, each of which has a worker."""
        return tuple(device["name"] for device in self.config["devices"])


def _fake(add: float, **options: Any) -> dict[str, Any]:
    fake = {"inputs": {"x": [COLUMNS]}, "outputs": COLUMNS, "add": add, **options}
    return {"model": "fake", "fake": fake}


def _python(add: float, **args: Any) -> dict[str, Any]:
    """A member that is a class."""
    return {
        "model": {"python": _CLASS, "args": {"add": add, **args}},
        "inputs": {"x": {"datatype": "FP32", "shape": [COLUMNS]}},
    }


def _devices() -> list[dict[str, Any]]:
    cores = sorted(os.sched_getaffinity(0))
    return [
        {
            "name": name,
            "part_of": "cpu",
            "cores": [cores[i % len(cores)]],
            "memory_bytes": _DEVICE_MIB << 20,
        }
        for i, name in enumerate(_DEVICES)
    ]


def _allocation(members: dict[str, Any], only: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """Every member on every device, but for those that are named in `only`."""
    return {
        "members": list(members),
        "devices": list(_DEVICES),
        "matrix": [
            [_BATCH if device in only.get(name, _DEVICES) else 0 for name in members]
            for device in _DEVICES
        ],
    }


def mixed() -> Scene:
    """Ensembles that are strict, have a quorum, a cascade, a deadline; and those that fail."""
    adds = {"a": 0.0, "b": 3.0, "c": 6.0, "slow": 9.0}
    members = {name: _fake(add, sleep_ms=2.0) for name, add in adds.items()}
    members["b"] = _python(adds["b"], sleep_ms=2.0)
    members["slow"]["fake"]["sleep_ms"] = _SLOW_MS
    logits = {f"logits-{i}": {**_fake(0.0, sleep_ms=2.0), "output": "logits"} for i in range(3)}
    members |= logits | _failing()
    three = {name: adds[name] for name in "abc"}
    cascade = dict.fromkeys(logits, 0.0)
    models = [
        Model("strict", three, quorum=3),
        Model("quorum", adds, quorum=2),
        Model("deadline", {"a": 0.0, "slow": 9.0}, quorum=1, deadline_s=_DEADLINE_S),
        Model("cascade", cascade, quorum=3, is_softmax=True),
    ]
    scene = _scene(members, models, {"slow": ("one",)}, max_waiting_requests=24)
    stages = {"cascade": [[name] for name in logits], "confidence": [0.6, 0.7]}
    scene.config["ensembles"]["cascade"] |= stages
    return scene


def _failing() -> dict[str, Any]:
    """Members that fail on poison, each in its own way."""
    fakes = {
        name: _fake(_FAILING_ADD, fail=fail, fail_value=POISON) for fail, name in _FAKES.items()
    }
    classes = {
        name: _python(_FAILING_ADD, fail=fail.removeprefix("python "), poison=POISON)
        for fail, name in _CLASSES.items()
    }
    return fakes | classes


def _poisoned() -> dict[str, Model]:
    """An ensemble for each of the members that fail.

    One that hangs is waited for until the deadline only: its worker dies once, not five times.
    """
    return {
        fail: Model(
            f"with-{name}",
            {"a": 0.0, name: _FAILING_ADD},
            quorum=1 if fail in {"hang", "alloc", "python hang"} else 2,
            deadline_s=_DEADLINE_S if fail.endswith("hang") else 0.0,
            fails=(name,),
        )
        for fail, name in _FAILS.items()
    }


def _scene(
    members: dict[str, Any],
    models: list[Model],
    only: dict[str, tuple[str, ...]],
    **server: Any,
) -> Scene:
    poisoned = _poisoned()
    ensembles: dict[str, dict[str, Any]] = {
        model.name: {
            "members": list(model.adds),
            "quorum": model.quorum,
            "deadline_ms": model.deadline_s * 1e3,
        }
        for model in (*models, *poisoned.values())
    }
    return Scene(
        config={
            "members": members,
            "ensembles": ensembles,
            "devices": _devices(),
            "server": {"arena_bytes": 256 << 10, "drain_s": 20.0, **server},
        },
        allocation=_allocation(members, {**_FAILING_ON, **only}),
        models={model.name: model for model in models},
        poisoned=poisoned,
    )


def steady(*, sleep_ms: float = 20.0) -> Scene:
    """One strict ensemble whose members sleep, so that they and not the machine are the limit."""
    adds = {"a": 0.0, "b": 3.0, "c": 6.0}
    members = {name: _fake(add, sleep_ms=sleep_ms) for name, add in adds.items()}
    return _scene(members | _failing(), [Model("strict", adds, quorum=len(adds))], {})
