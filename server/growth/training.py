"""Runs a user's training function for one trial: metrics flow out as they come, then a member.

Runs in the processes that train; knows neither Optuna nor the parent. The function is a generator,
``train(config, run)``, that yields a metric per round and returns a model: the path of its file, or
the section of a configuration's member that describes it. Files in the trial's directory are named
relative to the library in what flows out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["NotTrainable", "Pruned", "Run", "Trained", "TrialFailed", "train"]


@dataclass(frozen=True)
class Run:
    """What a training function is told, beside its configuration.

    Attributes:
        number: of the trial, from 0.
        budget: how many metrics it should yield if it is not stopped before, such as its epochs.
        directory: where it writes its model, an empty directory of its own.
        device: ``cuda`` (the process sees only its own GPU) or ``cpu``.
        cores: how many cores it may use; the process is bound to them.
        seed: of random numbers, another one for each trial.
    """

    number: int
    budget: int
    directory: Path
    device: str
    cores: int
    seed: int


@dataclass(frozen=True)
class Trained:
    """A trial that came to its end.

    Attributes:
        quality: the last metric.
        member: its section in a configuration, paths relative to the library.
        nbytes: of all files in its directory.
    """

    quality: float
    member: dict[str, Any]
    nbytes: int


class Pruned(Exception):
    """The trial was stopped, because others are better at this point."""


class NotTrainable(Exception):
    """The user's function can't be used for any trial; the text says what is wrong with it."""


class TrialFailed(Exception):
    """A trial gave no member.

    Attributes:
        kind: a few words that are the same for failures of the same kind.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def train(
    function: Callable[..., Any],
    config: Mapping[str, Any],
    run: Run,
    library: Path,
    on_metric: Callable[[int, float], bool],
) -> Trained:
    """Run a training function to its end, or until `on_metric` says that it shall stop.

    Args:
        function: the user's generator function.
        config: its first argument.
        run: its second argument; the directory is in the library.
        library: the directory that the member's paths become relative to.
        on_metric: gets the number of a metric, from 1, and the metric; true stops the trial.

    Raises:
        Pruned: if it was stopped.
        NotTrainable: if the function is no generator.
        TrialFailed: if it yields no finite number, or returns no model.
        Exception: whatever the function raises.
    """
    steps = function(dict(config), run)
    if not isinstance(steps, Generator):
        raise NotTrainable("is no generator: it should yield a metric per round, then return")
    quality, step = math.nan, 0
    try:
        while True:
            try:
                metric = next(steps)
            except StopIteration as end:
                result = end.value
                break
            step += 1
            quality = _number(metric)
            if on_metric(step, quality):
                raise Pruned
    finally:
        steps.close()
    if not step:
        raise TrialFailed("no metric", "the function ended without yielding a metric")
    member = _member(result, run.directory, library)
    return Trained(quality, member, _persist(run.directory))


def _number(metric: Any) -> float:
    try:
        number = float(metric)
    except (TypeError, ValueError):
        raise TrialFailed(
            "metric is no number", f"the function yielded {metric!r:.80}, not a number"
        ) from None
    if not math.isfinite(number):
        raise TrialFailed("metric is not finite", f"the function yielded {number}")
    return number


def _member(result: Any, directory: Path, library: Path) -> dict[str, Any]:
    """Return the member's section of what the function returned."""
    section = {"model": Path(result)} if isinstance(result, str | os.PathLike) else result
    if not isinstance(section, Mapping) or "model" not in section:
        raise TrialFailed(
            "no model",
            f"the function returned {result!r:.80}: it should be the path of a model file, or a "
            "mapping with `model`, as an entry of a configuration's members",
        )
    located = _located(dict(section), directory, library)
    if isinstance(section["model"], Path) and not (library / located["model"]).exists():
        raise TrialFailed("no model", f"there is no file {section['model']}")
    try:
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(located))
    except TypeError as error:
        raise TrialFailed("no model", f"the member's section is no plain data: {error}") from None
    return plain


def _located(value: Any, directory: Path, library: Path) -> Any:
    """Return a section whose paths, and texts that name something in `directory`, are found.

    A text may go on after a file's name, as in ``FILE.py:NAME``.
    """
    if isinstance(value, Mapping):
        return {key: _located(one, directory, library) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_located(one, directory, library) for one in value]
    if not isinstance(value, str | Path) or not str(value):
        return value
    where, colon, rest = str(value).partition(":")
    path = directory / where
    if not isinstance(value, Path) and not path.exists():
        return value
    found = Path(os.path.abspath(path))
    inside = found.is_relative_to(library)
    return f"{found.relative_to(library) if inside else found}{colon}{rest}"


def _persist(directory: Path) -> int:
    """Have the files of a directory survive a loss of power; return their bytes."""
    nbytes = 0
    for path in directory.rglob("*"):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            nbytes += 0 if path.is_dir() else os.fstat(fd).st_size
        finally:
            os.close(fd)
    return nbytes
