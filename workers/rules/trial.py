"""Tries custom rules before anything is started, each in a child process.

The supervisor (and `ensembled check`) calls `try_rules`; a child reads a `Trial` from stdin and
writes what it finds, the rule's outputs or a problem, to a descriptor. A user's module, and all
that it imports, therefore stays out of the supervisor, and a crash in it is a finding.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from workers.rules.catalogue import RuleError
from workers.rules.custom import CustomRule, check_numbers
from workers.runtime.child_main import end_with
from workers.runtime.child_process import ChildError, run_child
from workers.runtime.spec import RuleSpec, TensorSpec

__all__ = ["Trial", "Tried", "main", "try_rules"]

Array = npt.NDArray[Any]

_TIMEOUT_S = 120.0
_ROWS = (1, 3)


class Trial(msgspec.Struct, frozen=True):
    """A custom rule, and what it is called with.

    Attributes:
        rule: whose outputs are to be found.
        members: their names, in the ensemble's order.
        predicted: one member's prediction of one row.
        are_probabilities: whether that sums to 1 over its last axis.
        fewest: the fewest members that an answer may rest on.
    """

    rule: RuleSpec
    members: tuple[str, ...]
    predicted: TensorSpec
    are_probabilities: bool
    fewest: int


class Tried(msgspec.Struct, frozen=True):
    """The outputs of a rule for one row, or its problem, a line."""

    outputs: tuple[TensorSpec, ...] = ()
    problem: str = ""


def try_rules(trials: Sequence[Trial], *, timeout_s: float = _TIMEOUT_S) -> list[Tried]:
    """Load every rule, and call it with all members and with the fewest that may be there.

    Returns what was found of each; `timeout_s` is for one of them.
    """
    if not trials:
        return []
    with ThreadPoolExecutor(min(len(trials), os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda trial: _try_in_child(trial, timeout_s), trials))


def main() -> None:
    """Try the rule that stdin describes and write what was found: the child's part."""
    trial = msgspec.json.decode(sys.stdin.buffer.read(), type=Trial)
    end_with(msgspec.json.encode(_try(trial)))


def _try(trial: Trial) -> Tried:
    members = len(trial.members)
    weights = np.array(trial.rule.weights or (1.0,) * members)
    try:
        rule = CustomRule(trial.rule, trial.members, weights)
    except RuleError as error:
        return Tried(problem=str(error))
    found: tuple[TensorSpec, ...] = ()
    for chosen in map(range, dict.fromkeys((members, min(trial.fewest, members)))):
        for rows in _ROWS:
            predictions = _random_predictions(trial, len(chosen), rows)
            try:
                outputs = _outputs(trial.predicted, rule.caller(chosen)(predictions), rows)
                if found and outputs != found:
                    raise RuleError(f"it returned {_listed(outputs)}, before {_listed(found)}")
            except RuleError as error:
                shape = list(predictions.shape)
                return Tried(problem=f"called with random predictions {shape}: {error}")
            found = outputs
    return Tried(found)


def _outputs(
    predicted: TensorSpec, results: Mapping[str, Array], rows: int
) -> tuple[TensorSpec, ...]:
    """Return the outputs for one row; an array by itself is called as what was combined."""
    if not results:
        raise RuleError("it returned nothing")
    for values in results.values():
        if values.ndim == 0 or len(values) != rows:
            raise RuleError(f"it returned shape {list(values.shape)}, not [{rows}, ...]")
        check_numbers(values)
    return tuple(
        TensorSpec(name or predicted.name, predicted.datatype, values.shape[1:])
        for name, values in results.items()
    )


def _listed(outputs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{one.name} {['n', *one.shape]}" for one in outputs)


def _random_predictions(trial: Trial, members: int, rows: int) -> Array:
    generator = np.random.default_rng(0)
    shape = (members, rows, *trial.predicted.shape)
    if not trial.are_probabilities or not trial.predicted.shape:
        return generator.random(shape).astype(trial.predicted.dtype)
    exponentials = generator.exponential(size=shape)
    shares: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return shares.astype(trial.predicted.dtype)


def _try_in_child(trial: Trial, timeout_s: float) -> Tried:
    try:
        answer = run_child(
            f"trial of the rule {trial.rule.rule}",
            "workers.rules.trial",
            msgspec.json.encode(trial),
            timeout_s,
        )
    except ChildError as error:
        return Tried(problem=f"the process that tried it {error}")
    return msgspec.json.decode(answer, type=Tried)


if __name__ == "__main__":
    main()
