"""A configuration's members without a server: their sources, inputs for them, their answer.

Runs in the benchmark's own processes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from server.config import Config
from server.members.sources import model_sources
from workers.backends import load
from workers.backends.base import Array
from workers.rules import RULES
from workers.runtime.spec import DeviceSpec, TensorSpec
from workers.worker.postprocess import probabilities

__all__ = ["expected_answer", "one_core", "random_input"]


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
        (raw,) = model.predict([rows])
        is_logits = config.members[source.member].output == "logits"
        predictions.append(probabilities(raw) if is_logits else raw)
        model.close()
    stacked = np.stack(predictions).astype(np.float32)
    answer = np.empty(stacked.shape[1:], np.float32)
    RULES[described.rules[0]](stacked, np.ones(len(stacked)), answer)
    return answer
