"""Members to profile, and what stands in for the children that would measure them."""

import math
import os
from contextlib import AbstractContextManager
from dataclasses import replace

import msgspec

from server.config import Config
from server.members.inspect import InspectedMember
from server.profiling import profile_members
from workers.profiler.handle import (
    Compare,
    Compared,
    Loaded,
    Measured,
    MeasurePower,
    PowerMeasured,
)
from workers.runtime.spec import DeviceSpec, FakeOptions, ModelSignature, ModelSource, TensorSpec

MIB = 1 << 20
CORES = sorted(os.sched_getaffinity(0))
CPU = DeviceSpec("cpu:0", "cpu-1", 1 << 30, (CORES[0],))
OTHER = DeviceSpec("cpu:1", "cpu-1", 1 << 30, (CORES[-1],))
GPU = DeviceSpec("cuda:0", "NVIDIA H200", 100 << 30)


def variable_member(name, path, *, most=512, **section):
    """A member of one input FP32 [n, seq] of so many elements at most."""
    one = member(name, path, **section)
    x = TensorSpec("x", "FP32", (-1,), (most,), ("seq",))
    return replace(one, signature=msgspec.structs.replace(one.signature, inputs=(x,)))


def member(name, path, *, elements=4, parameter_bytes=100, **section):
    config = Config.model_validate({"members": {name: {"model": {"recipe": "any"}, **section}}})
    x, y = TensorSpec("x", "FP32", (elements,)), TensorSpec("y", "FP32", (elements,))
    return InspectedMember(
        name,
        config.members[name],
        ModelSource(name, "onnx", str(path)),
        ModelSignature((x,), (y,), parameter_bytes),
    )


def fake(name, **options):
    fields = {"inputs": {"x": [4]}, "outputs": 2, **options}
    config = Config.model_validate({"members": {name: {"model": "fake", "fake": fields}}})
    return InspectedMember(
        name,
        config.members[name],
        ModelSource(name, "fake", fake=FakeOptions({"x": (4,)}, 2, options.get("sleep_ms", 0.0))),
        ModelSignature((TensorSpec("x", "FP32", (4,)),), (TensorSpec("output", "FP32", (2,)),), 0),
    )


def profiled(members, devices=(CPU,), *, batches=(1, 2, 4), **options):
    names = {one.name: {"model": {"recipe": "any"}} for one in members}
    config = Config.model_validate({"members": names, "placement": {"batch_sizes": list(batches)}})
    return profile_members(config, members, devices, **options)


def batches(found, name="m", kind="cpu-1"):
    return list(found.profiles.of(name, kind))


class Script:
    """Stands in for the child processes: answers are given by batch, an exception is raised."""

    def __init__(self, answers, *, load=None, load_s=0.0, crowded=1.0, by_size=None, powers=None):
        self.answers = answers
        self.by_size = by_size or (lambda size: 1.0)
        self.sizes = []
        self.now = 0.0
        self.load_s = load_s
        self.load = load
        self.crowded = crowded
        self.open = []
        self.compared = []
        self.powers = powers  # by batch: watts and seconds of a run
        self.metered = []
        self.started = []

    def __call__(self, device, instance, arena):
        self.started.append((instance.source.member, device.name))
        return _Actor(self, device.name)

    @property
    def measured(self):
        return [batch for _, batch in self.open]


class _Actor(AbstractContextManager):
    def __init__(self, script, device):
        self.script = script
        self.device = device

    def __exit__(self, *error):
        self.script = None

    def wait_reply(self, kind, timeout_s):
        if kind is Loaded:
            return self._wait_loaded(timeout_s)
        assert 0 < timeout_s < math.inf
        if kind is Compared:
            return Compared(tuple(map(self._answer, self.script.compared[-1])))
        if kind is PowerMeasured:
            return PowerMeasured(*self.script.powers[self.script.metered[-1]], "rapl")
        answer = self._answer(self.batch)
        if self.sizes:
            self.script.sizes.append((self.batch, *self.sizes))
            answer *= self.script.by_size(*self.sizes)
        alone = self.script.open[-1][0] == self.script.open[0][0]
        return Measured(self.batch, answer * (1 if alone else self.script.crowded), MIB)

    def _wait_loaded(self, timeout_s):
        assert timeout_s > 0
        self.script.now += min(self.script.load_s, timeout_s)
        if self.script.load_s > timeout_s:
            raise TimeoutError
        if self.script.load:
            raise self.script.load
        return Loaded(70 * MIB)

    def send(self, command):
        if isinstance(command, Compare):
            self.script.compared.append(command.batches)
            return
        if isinstance(command, MeasurePower):
            self.script.metered.append(command.batch)
            return
        self.batch, self.sizes = command.batch, command.sizes
        self.script.open.append((self.device, command.batch))

    def _answer(self, batch):
        """What the script says; of several answers the last one stays."""
        answer = self.script.answers[batch]
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if callable(answer):
            answer = answer()
        if isinstance(answer, Exception):
            raise answer
        return answer
