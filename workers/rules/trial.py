"""Tries custom rules before anything is started, each in a child process.

The supervisor (and `ensembled check`) calls `try_rules`; a child reads a `Trial` from stdin and
writes the problem it finds to a descriptor. A user's module, and all that it imports, therefore
stays out of the supervisor, and a crash in it is a finding.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from workers.rules.catalogue import RuleError
from workers.rules.custom import CustomRule
from workers.runtime.child_main import flush_c
from workers.runtime.child_process import ChildError, run_child
from workers.runtime.spec import TensorSpec

__all__ = ["Trial", "main", "try_rules"]

Array = npt.NDArray[Any]

_TIMEOUT_S = 120.0
_ROWS = (1, 3)


class Trial(msgspec.Struct, frozen=True):
    """A rule, given as to `CustomRule`, and its arguments.

    Attributes:
        members: their names, in the ensemble's order.
        predicted: one member's prediction of one row.
        are_probabilities: whether that sums to 1 over its last axis.
        fewest: the fewest members that an answer may rest on.
    """

    rule: str
    directory: str
    members: tuple[str, ...]
    weights: tuple[float, ...]
    predicted: TensorSpec
    are_probabilities: bool
    fewest: int


def try_rules(trials: Sequence[Trial], *, timeout_s: float = _TIMEOUT_S) -> list[str]:
    """Load every rule, and call it with all members and with the fewest that may be there.

    Returns the problem of each rule, "" if there is none; `timeout_s` is for one of them.
    """
    if not trials:
        return []
    with ThreadPoolExecutor(min(len(trials), os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda trial: _try_in_child(trial, timeout_s), trials))


def main() -> None:
    """Try the rule that stdin describes and write its problem: the child's part."""
    trial = msgspec.json.decode(sys.stdin.buffer.read(), type=Trial)
    problem = _try(trial)
    os.write(int(sys.argv[1]), msgspec.json.encode(problem))
    flush_c()
    os._exit(0)  # don't wait for threads of the user's module


def _try(trial: Trial) -> str:
    try:
        weights = np.array(trial.weights)
        rule = CustomRule(trial.rule, trial.directory, trial.members, weights)
    except RuleError as error:
        return str(error)
    members = len(trial.members)
    for chosen in map(range, dict.fromkeys((members, min(trial.fewest, members)))):
        for rows in _ROWS:
            predictions = _random_predictions(trial, len(chosen), rows)
            try:
                rule.for_members(chosen)(predictions, np.empty_like(predictions[0]))
            except RuleError as error:
                shape = list(predictions.shape)
                return f"called with random predictions {shape}: {error}"
    return ""


def _random_predictions(trial: Trial, members: int, rows: int) -> Array:
    generator = np.random.default_rng(0)
    shape = (members, rows, *trial.predicted.shape)
    if not trial.are_probabilities or not trial.predicted.shape:
        return generator.random(shape).astype(trial.predicted.dtype)
    exponentials = generator.exponential(size=shape)
    shares: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return shares.astype(trial.predicted.dtype)


def _try_in_child(trial: Trial, timeout_s: float) -> str:
    try:
        answer = run_child(
            f"trial of the rule {trial.rule}",
            "workers.rules.trial",
            msgspec.json.encode(trial),
            timeout_s,
        )
    except ChildError as error:
        return f"the process that tried it {error}"
    return msgspec.json.decode(answer, type=str)


if __name__ == "__main__":
    main()
