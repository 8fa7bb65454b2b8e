"""`ensembled grow`: trains models by a user's function, and tells what the library has then.

Runs in the process of the command line. Options flow in; a summary, or its JSON, on stdout flows
out, and progress on stderr. The exit status is 0 if the library has members, 130 after an
interruption, else 1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import typer
import yaml

from server.cli.application import make_table, stdout_console
from server.errors import ConfigError
from server.growth.grower import GrowOptions, Growth, grow
from server.growth.process import member_name
from server.growth.progress import describe, progress_on_stderr
from server.stdout import echo

__all__ = ["fixed_entries", "grow_library", "reference"]

_INTERRUPTED = 130
_MOST_SHOWN = 10
_WHY = {
    "trials": "all trials have ended",
    "budget": "the time is spent",
    "interrupted": "interrupted; the same command continues",
    "failing": "ended early, since the last trials have all failed",
}


def reference(function: str) -> tuple[str, str]:
    """Return a function's reference with an absolute path, and where its imports are looked up.

    Raises:
        ConfigError: if it is none.
    """
    where, _, name = function.rpartition(":")
    if not where or not name.isidentifier():
        raise ConfigError(f"{function!r} should be package.module:NAME or FILE.py:NAME")
    if not where.endswith(".py"):
        return function, os.getcwd()
    path = Path(where).absolute()
    if not path.is_file():
        raise ConfigError(f"{function}: there is no file {where}")
    return f"{path}:{name}", str(path.parent)


def fixed_entries(texts: Sequence[str]) -> dict[str, Any]:
    """Return the entries of ``NAME=VALUE``, values as in YAML.

    Raises:
        ConfigError: if one is not written like that.
    """
    entries = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            if not name or not equals:
                raise ValueError
            entries[name] = yaml.safe_load(value)
        except (ValueError, yaml.YAMLError):
            raise ConfigError(f"--set {text}: should be NAME=VALUE") from None
    return entries


def grow_library(options: GrowOptions, *, as_json: bool) -> None:
    """Grow a library, and print what it has.

    Raises:
        ConfigError: if an option, the storage or the user's function is wrong.
        StartError: if a process can't start.
        typer.Exit: with a status that is not 0.
    """
    with progress_on_stderr(options.trials, options.budget_s) as on_progress:
        growth = grow(options, on_progress)
    if as_json:
        echo(orjson.dumps(_document(growth)).decode())
    else:
        _print(growth, options)
    if growth.ended == "interrupted":
        raise typer.Exit(_INTERRUPTED)
    if growth.ended == "failing" or not growth.kept:
        raise typer.Exit(1)


def _document(growth: Growth) -> dict[str, Any]:
    return {
        "library": str(growth.library),
        "ended": growth.ended,
        "trials": {
            "complete": growth.complete,
            "pruned": growth.pruned,
            "failed": growth.failed,
            "put_back": growth.put_back,
        },
        "metrics": growth.metrics,
        "spent_s": growth.spent_s,
        "members": [
            {"name": member_name(number), "trial": number, "quality": quality}
            for number, quality in growth.kept
        ],
        "failures": [
            {"kind": kind, "trials": count, "example": one.message, "file": one.file or None}
            for kind, (count, one) in growth.failures.items()
        ],
    }


def _print(growth: Growth, options: GrowOptions) -> None:
    console = stdout_console()
    if growth.kept:
        table = make_table("member", numbers=("quality",))
        for number, quality in growth.kept[:_MOST_SHOWN]:
            table.add_row(member_name(number), f"{quality:.6g}")
        console.print(table)
        if (more := len(growth.kept) - _MOST_SHOWN) > 0:
            console.print(f"and {more} more")
    for kind, (count, one) in growth.failures.items():
        where = f" (see {growth.library / one.file})" if one.file else ""
        console.print(f"{count} failed: {kind}, such as: {one.message}{where}")
    if growth.put_back:
        console.print(f"{growth.put_back} trials were lost with their process, and put back")
    console.print(f"{describe(growth, None, None)}: {_WHY[growth.ended or 'trials']}")
    if not growth.kept:
        print(f"{growth.library} has no members yet", file=sys.stderr)
    elif options.data is None:
        console.print("without --data, members were kept by their quality alone")
