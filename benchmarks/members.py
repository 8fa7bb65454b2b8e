"""A configuration's members without a server: their sources, inputs for them, their answer.

Runs in the benchmark's own processes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from server.config import Config, MemberConfig, RecipeConfig, backend_for
from workers.backends import load
from workers.backends.base import Array
from workers.predictor import interpret
from workers.recipes import RecipeResult, ensure_with_progress
from workers.rules import RULES
from workers.spec import DeviceSpec, ModelSource, TensorSpec

__all__ = ["expected_answer", "model_sources", "one_core", "random_input"]


def model_sources(config: Config) -> list[ModelSource]:
    """Return where the members' models are, in the configuration's order; make what is missing.

    Raises:
        RecipeError: if a model can't be made.
    """
    recipes = {m.model.recipe for m in config.members.values() if isinstance(m.model, RecipeConfig)}
    made = ensure_with_progress(sorted(recipes))
    return [_source(name, member, made) for name, member in config.members.items()]


def _source(name: str, member: MemberConfig, made: dict[str, RecipeResult]) -> ModelSource:
    model = member.model
    path = made[model.recipe].path if isinstance(model, RecipeConfig) else None
    if isinstance(model, Path):
        path = model
    backend = member.resolved_backend or (backend_for(path) if path else None)
    assert backend is not None, "the configuration's check leaves no other"
    return ModelSource(
        member=name,
        backend=backend,
        path=str(path or ""),
        declared=tuple(
            TensorSpec(own, tensor.datatype, tensor.shape)
            for own, tensor in member.inputs.items()
            if tensor.datatype is not None and tensor.shape is not None
        ),
        output_name=member.output_name or "",
        fake=member.fake.options() if member.fake else None,
    )


def one_core(core: int) -> DeviceSpec:
    """Return a CPU device of one core."""
    return DeviceSpec(f"cpu:{core}", "cpu", memory_bytes=0, cores=(core,))


def random_input(spec: TensorSpec, rows: int, seed: int) -> Array:
    """Return random rows for an input: floats in [-1, 1], as scaled pixels are; else small ints.

    Args:
        spec: the input, without its batch dimension.
        rows: how many.
        seed: of the generator.
    """
    generator = np.random.default_rng(seed)
    shape = (rows, *spec.shape)
    if np.issubdtype(spec.dtype, np.floating):
        return generator.uniform(-1.0, 1.0, shape).astype(spec.dtype)
    return generator.integers(0, 2, shape).astype(spec.dtype)


def expected_answer(config: Config, ensemble: str, rows: Array) -> npt.NDArray[np.float32]:
    """Run an ensemble's members in this process and combine them with its (unweighted) rule.

    Args:
        config: whose members have one input each.
        ensemble: its name.
        rows: the input, [n, ...].

    Returns:
        The answer, [n, *outputs].
    """
    described = config.ensembles[ensemble]
    predictions = []
    for source in model_sources(config):
        if source.member not in described.members:
            continue
        model = load(source, one_core(0))
        predictions.append(interpret(model.predict([rows]), config.members[source.member].output))
        model.close()
    stacked = np.stack(predictions).astype(np.float32)
    answer = np.empty(stacked.shape[1:], np.float32)
    RULES[described.rule](stacked, np.ones(len(stacked)), answer)
    return answer
