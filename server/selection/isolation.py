"""Work on many members at once that goes on without those that fail.

Runs in the process of the command line. Names and the work flow in; results of the members that
can do it, and why the others can't, flow out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from server.errors import ConfigError, EnsembledError, StartError

__all__ = ["isolated", "reason"]

_T = TypeVar("_T")


def isolated(
    names: Sequence[str],
    work: Callable[[Sequence[str]], Mapping[str, _T]],
    left_out: dict[str, str],
) -> dict[str, _T]:
    """Do work for all members together; where that fails, for each half of them, and so on.

    So one that fails is found in a few steps, and what is too large for the memory is divided.
    Those that fail by themselves are added to `left_out`, with the reason.
    """
    if not names:
        return {}
    try:
        return dict(work(names))
    except (ConfigError, StartError) as error:
        if len(names) == 1:
            left_out[names[0]] = reason(names[0], error)
            return {}
    half = len(names) // 2
    return {**isolated(names[:half], work, left_out), **isolated(names[half:], work, left_out)}


def reason(name: str, error: EnsembledError) -> str:
    """Return an error about a member as one line, without the name at its beginning."""
    first = error.message.splitlines()[0]
    return first.removeprefix(f"{name}: ")
