"""Recipes of agents for two control problems, trained so briefly that they are imperfect.

Each takes ``observation``, FP32 [n, 4] or [n, 3]; those of the cart-pole return ``logits``, FP32
[n, 2] (push left, push right), those of the pendulum ``torque``, FP32 [n, 1]. `control_problems`
says what these mean; ``python examples/models/control_returns.py`` prints how well the agents and
their ensembles play.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from control_agents import Agents, Training, train
from control_problems import CART_POLE, PENDULUM, PROBLEMS, Problem

if TYPE_CHECKING:
    import onnx

__all__ = [
    "HIDDEN",
    "TRAINING",
    "cartpole_0",
    "cartpole_1",
    "cartpole_2",
    "cartpole_3",
    "cartpole_4",
    "names",
    "pendulum_0",
    "pendulum_1",
    "pendulum_2",
    "pendulum_3",
]

#: The width of the hidden layer of each agent by its problem; an agent's number is its seed, too.
HIDDEN = {CART_POLE.name: (4, 6, 8, 12, 16), PENDULUM.name: (8, 8, 12, 16)}

#: How long they are trained.
TRAINING = {
    CART_POLE.name: Training(generations=8, population=40, episodes=4, deviation=1.0),
    PENDULUM.name: Training(generations=50, population=64, episodes=8, deviation=1.5),
}

# Old enough for every onnxruntime that we support.
_IR_VERSION, _OPSET = 8, 17


def names(problem: Problem) -> tuple[str, ...]:
    """The recipes of a problem's agents, which are the members of its ensembles, too."""
    return tuple(f"{problem.name}_{index}" for index in range(len(HIDDEN[problem.name])))


def _build(kind: str, seed: int, path: Path, report: Callable[[str], None]) -> None:
    """Train an agent and write it."""
    import onnx  # noqa: PLC0415

    problem = PROBLEMS[kind]
    report("training")
    agent = train(problem, HIDDEN[kind][seed], seed, TRAINING[kind])
    report("writing")
    onnx.save(_network(f"{kind}_{seed}", problem, agent), path)


def _network(name: str, problem: Problem, agent: Agents) -> onnx.ModelProto:
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

    output = "logits" if problem.is_discrete else "torque"
    last = output if problem.is_discrete else "raw"
    nodes = [
        helper.make_node("Gemm", ["observation", "w1", "b1"], ["h"]),
        helper.make_node("Tanh", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "w2", "b2"], [last]),
    ]
    weights = {"w1": agent.w1, "b1": agent.b1, "w2": agent.w2, "b2": agent.b2}
    tensors = {key: value[0] for key, value in weights.items()}
    if not problem.is_discrete:
        nodes.append(helper.make_node("Tanh", ["raw"], ["share"]))
        nodes.append(helper.make_node("Mul", ["share", "bound"], ["torque"]))
        tensors["bound"] = np.array([problem.bound])
    observed: list[str | int | None] = ["n", len(problem.scales)]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, observed)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", problem.outputs])],
        [numpy_helper.from_array(value.astype(np.float32), key) for key, value in tensors.items()],
    )
    opset = helper.make_opsetid("", _OPSET)
    return helper.make_model(graph, ir_version=_IR_VERSION, opset_imports=[opset])


cartpole_0, cartpole_1, cartpole_2, cartpole_3, cartpole_4 = (
    partial(_build, CART_POLE.name, seed) for seed in range(5)
)
pendulum_0, pendulum_1, pendulum_2, pendulum_3 = (
    partial(_build, PENDULUM.name, seed) for seed in range(4)
)
