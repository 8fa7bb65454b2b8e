"""Tries users' own rules before anything is started, each in a process of its own.

The supervisor (and `ensembled check`) calls `try_rules`; a child reads a `Trial` from stdin and
writes what is wrong with it to a descriptor. So a user's module, and all that it imports, stays
out of the supervisor, and a crash in it is a finding.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from workers.rules.custom import CustomRule
from workers.rules.errors import RuleError
from workers.runtime.child_main import flush_c
from workers.runtime.child_process import ask_child
from workers.runtime.spec import TensorSpec

__all__ = ["Trial", "main", "try_rules"]

Array = npt.NDArray[Any]

_TIMEOUT_S = 120.0
_ROWS = (1, 3)


class Trial(msgspec.Struct, frozen=True):
    """A rule and what it will be given.

    Attributes:
        rule: ``package.module:function``.
        directory: where its module is looked for, after the installed ones.
        members: names of the ensemble's members, in its order.
        weights: of these members.
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
    """Resolve and call every rule once for each number of members; what is wrong, "" if nothing.

    Args:
        trials: the rules.
        timeout_s: how long importing and calling one may take.
    """
    if not trials:
        return []
    with ThreadPoolExecutor(min(len(trials), os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda trial: _ask_child(trial, timeout_s), trials))


def main() -> None:
    """Try the rule that stdin describes and write what is wrong: the child's part."""
    trial = msgspec.json.decode(sys.stdin.buffer.read(), type=Trial)
    problem = _try(trial)
    os.write(int(sys.argv[1]), msgspec.json.encode(problem))
    flush_c()
    os._exit(0)  # threads of the user's module are of no interest


def _try(trial: Trial) -> str:
    try:
        weights = np.array(trial.weights)
        rule = CustomRule(trial.rule, trial.directory, trial.members, weights)
    except RuleError as error:
        return str(error)
    for chosen in _subsets(len(trial.members), trial.fewest):
        for rows in _ROWS:
            predictions = _random_predictions(trial, len(chosen), rows)
            try:
                rule.over(chosen)(predictions, np.empty_like(predictions[0]))
            except RuleError as error:
                shape = list(predictions.shape)
                return f"called with random predictions {shape}: {error}"
    return ""


def _subsets(members: int, fewest: int) -> Iterator[range]:
    """All members, then the fewest that may be there."""
    yield range(members)
    if fewest < members:
        yield range(fewest)


def _random_predictions(trial: Trial, members: int, rows: int) -> Array:
    generator = np.random.default_rng(0)
    shape = (members, rows, *trial.predicted.shape)
    if not trial.are_probabilities or not trial.predicted.shape:
        return generator.random(shape).astype(trial.predicted.dtype)
    exponentials = generator.exponential(size=shape)
    shares: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return shares.astype(trial.predicted.dtype)


def _ask_child(trial: Trial, timeout_s: float) -> str:
    try:
        child = ask_child(
            f"trial of the rule {trial.rule}",
            "workers.rules.trial",
            msgspec.json.encode(trial),
            timeout_s,
        )
    except subprocess.TimeoutExpired:
        return f"importing and calling it took more than {timeout_s:g} s"
    if child.code < 0:
        return f"the process that tried it died of {signal.Signals(-child.code).name}"
    try:
        return msgspec.json.decode(child.answer, type=str)
    except msgspec.DecodeError:
        return f"the process that tried it exited {child.code}: {child.last_line or 'no message'}"


if __name__ == "__main__":
    main()
