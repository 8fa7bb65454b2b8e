"""Custom rules: Python functions of the user that the configuration names.

Run in the combiner, and in a child process when the configuration is checked. Read-only predictions
flow in, the function's result is checked and copied to the answer. An exception fails only its own
rows; a call that takes too long is interrupted.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt

from workers.backends.files import changed_file
from workers.rules.catalogue import RuleError
from workers.runtime.importing import ImportFailed, describe_failure, import_function
from workers.runtime.spec import RuleSpec

__all__ = ["CALL_LIMIT_S", "CustomRule", "check_numbers", "resolve"]

Array = npt.NDArray[Any]
Function = Callable[[Array, Array, tuple[str, ...]], Any]

#: Of one call. A combiner that is silent for 5 s counts as hung.
CALL_LIMIT_S = 1.0
# After a call that took too long, to leave the combiner time for other ensembles.
_PAUSE_S = 5.0


def resolve(reference: str, directory: str) -> Function:
    """Import ``package.module:function``, from `directory` if it is not installed.

    Raises:
        RuleError: if there is no such module, or no such function in it, or importing it fails.
    """
    try:
        return import_function(reference, directory)
    except ImportFailed as failure:
        raise RuleError(str(failure)) from failure


class CustomRule:
    """A user's function as a rule, over members with these names and float64 weights.

    It is found, or refused with a RuleError, by `resolve`, or refused because its code has changed
    since it was stamped. Its outputs are those of the spec.
    """

    def __init__(self, spec: RuleSpec, members: Sequence[str], weights: Array) -> None:
        if changed := changed_file(spec.stamps):
            raise RuleError(f"{changed} is not what it was when it was deployed: reload")
        self._function = resolve(spec.rule, spec.directory)
        self._names = tuple(output.name for output in spec.outputs)
        self._members = tuple(members)
        self._weights = weights
        self._paused_until = 0.0

    def for_members(
        self, positions: Sequence[int]
    ) -> Callable[[Sequence[Array], Sequence[Array]], None]:
        """See `workers.rules.CombinationRule`."""
        call = self.caller(positions)

        def apply(inputs: Sequence[Array], answers: Sequence[Array]) -> None:
            results = call(inputs[0])
            if len(results) == 1 and len(self._names) == 1:
                (result,) = results.values()
                _copy(result, answers[0])
                return
            if results.keys() != set(self._names):
                raise RuleError(
                    f"it returned {', '.join(results) or 'nothing'}, not {', '.join(self._names)}"
                )
            for name, out in zip(self._names, answers, strict=True):
                _copy(results[name], out)

        return apply

    def caller(self, positions: Sequence[int]) -> Callable[[Array], dict[str, Array]]:
        """Return what calls the function with predictions [members, rows, *outputs] of members.

        It returns the results by name; "" is an array that was returned by itself.
        """
        members = tuple(self._members[i] for i in positions)
        weights = self._weights[list(positions)]
        weights.flags.writeable = False

        def call(predictions: Array) -> dict[str, Array]:
            view = predictions.view()
            view.flags.writeable = False
            return self._call(view, weights, members)

        return call

    def _call(
        self, predictions: Array, weights: Array, members: tuple[str, ...]
    ) -> dict[str, Array]:
        if time.monotonic() < self._paused_until:
            raise RuleError(f"it took more than {CALL_LIMIT_S:g} s a moment ago")
        try:
            with _limit(CALL_LIMIT_S):
                result = self._function(predictions, weights, members)
                if isinstance(result, Mapping):
                    return {str(name): np.asarray(one) for name, one in result.items()}
                return {"": np.asarray(result)}
        except _TooLong:
            self._paused_until = time.monotonic() + _PAUSE_S
            raise RuleError(f"it took more than {CALL_LIMIT_S:g} s") from None
        except BaseException as failure:  # SystemExit, too, which would end the process
            raise RuleError(describe_failure(failure)) from failure


def check_numbers(values: Array) -> None:
    """Raise RuleError unless a user's function returned numbers, none of them NaN."""
    if values.dtype.kind not in "biuf":
        raise RuleError(f"it returned {values.dtype}, not numbers")
    if np.isnan(values).any():
        raise RuleError("NaN in what it returned")


def _copy(values: Array, out: Array) -> None:
    """Check the result of a user's function, and write it to `out`."""
    if values.shape != out.shape:
        raise RuleError(f"it returned shape {list(values.shape)}, not {list(out.shape)}")
    check_numbers(values)
    out[...] = values


class _TooLong(BaseException):
    """Not an Exception, which a rule might catch."""


@contextlib.contextmanager
def _limit(limit_s: float) -> Iterator[None]:
    """Interrupt the block after a time; only in the main thread, which alone gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
