"""Inspected members without any model, and configurations composed of them."""

from __future__ import annotations

import pytest

from allocator.matrix import AllocationMatrix
from server.config import Config
from server.errors import ConfigError
from server.members.composition import compose
from server.members.inspect import InspectedMember
from workers.runtime.spec import ModelSignature, ModelSource, TensorSpec

X = (TensorSpec("x", "FP32", (4,)),)
Y = TensorSpec("y", "FP32", (3,))


def member(name, *, inputs=X, output=Y, labels=(), tensors=None, **section):
    """A member; `tensors` is its section `inputs`, `inputs` are those of its model."""
    config = Config.model_validate(
        {"members": {name: {"model": {"recipe": "any"}, "inputs": tensors or {}, **section}}}
    ).members[name]
    return InspectedMember(
        name,
        config,
        ModelSource(name, "onnx", f"{name}.onnx"),
        ModelSignature(inputs, (output,), 0),
        {output.name: labels},
    )


def renaming(name, inputs, names):
    config = Config.model_validate(
        {"members": {name: {"model": {"recipe": "any"}, "inputs": names}}}
    ).members[name]
    signature = ModelSignature(inputs, (TensorSpec("y", "FP32", (3,)),), 0)
    return InspectedMember(name, config, ModelSource(name, "onnx"), signature)


def meaning(name, what, output=Y, labels=(), *, takes=X, **section):
    config = Config.model_validate(
        {"members": {name: {"model": {"recipe": "any"}, "output": what, **section}}}
    ).members[name]
    return InspectedMember(
        name,
        config,
        ModelSource(name, "onnx"),
        ModelSignature(takes, (output,), 0),
        {output.name: labels},
    )


def image(size, *, channels_first=True, **changes):
    shape = (3, size, size) if channels_first else (size, size, 3)
    options = {"size": size, "mean": 127, "std": 128, **changes}
    return {"inputs": (TensorSpec("pixels", "FP32", shape),), "input": {"image": options}}


def composed(members, ensembles=None, *, batch=8, budget=1 << 22, cells=None, **options):
    names = [one.name for one in members]
    config = Config.model_validate(
        {
            "members": {name: {"model": {"recipe": "any"}} for name in names},
            "ensembles": ensembles or {},
        }
    )
    matrix = AllocationMatrix(
        tuple(names), ("cpu:0", "cpu:1"), cells or ((batch,) * len(names), (0,) * len(names))
    )
    return compose(config, members, matrix, budget_bytes=budget, **options)


def problems(members, rule="mean", **ensemble):
    names = [one.name for one in members]
    with pytest.raises(ConfigError) as caught:
        composed(members, {"e": {"members": names, "rule": rule, **ensemble}})
    for line in caught.value.problems:
        assert "\n" not in line
    return caught.value.problems
