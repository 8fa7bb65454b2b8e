"""Makes the models of recipes that are not in the cache yet, in child processes.

Runs in the supervisor before anything else starts, and imports no runtime for it. Recipes go in,
paths of model files come out; progress arrives from the children (`workers.builder.__main__`) as
JSON lines.
"""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from workers.builder.recipe import Recipe, RecipeError
from workers.runtime.cache import cache_part
from workers.runtime.child_process import OutputReader, describe_exit, start_child

__all__ = ["BuiltModel", "Event", "build_models", "build_models_with_progress"]

_log = logging.getLogger(__name__)
#: The first stage of every recipe, and the last.
_WAITING = "waiting"
_DONE = "done"

OnProgress = Callable[[str, str], None]


class Event(msgspec.Struct, frozen=True):
    """A line from the child: a recipe has reached a stage, or `error` has ended the child."""

    name: str
    stage: str = ""
    error: str = ""


@dataclass(frozen=True)
class BuiltModel:
    """The files of one recipe: the model, and the names of its classes if it has any."""

    path: Path
    labels_path: Path | None


def build_models(
    recipes: Sequence[Recipe], on_progress: OnProgress | None = None
) -> dict[Recipe, BuiltModel]:
    """Return the model files of recipes, after making those that the cache lacks.

    Concurrent calls, also of other processes, make each model once: the others wait. `on_progress`
    gets a recipe's name and stage; it is not called if nothing has to be made.

    Raises:
        RecipeError: if a model can't be made, or not be kept in the cache.
    """
    if not recipes:
        return {}  # without models there is no need for a cache directory
    report = on_progress or (lambda name, stage: None)
    try:
        cache = cache_part("models")
        missing = [recipe for recipe in dict.fromkeys(recipes) if not _path(recipe, cache).exists()]
        for file in dict.fromkeys(recipe.file for recipe in missing):
            with (cache / f".{file.stem}.lock").open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # released even if this process dies
                pending = [r for r in missing if r.file == file and not _path(r, cache).exists()]
                if pending:
                    _run_recipes(pending, cache, report)
    except OSError as failure:
        raise RecipeError(f"can't keep models in the cache: {failure}") from failure
    return {recipe: _built(recipe, cache) for recipe in recipes}


def build_models_with_progress(recipes: Sequence[Recipe]) -> dict[Recipe, BuiltModel]:
    """Do what `build_models` does, and show the progress if something has to be made.

    On a terminal that is a bar, else a line of the log when a model's turn comes and when it is
    done. Raises RecipeError as it does.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        return build_models(recipes, _log_progress)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        console=console,
    )
    tasks = {recipe.name: bar.add_task("", total=None, visible=False) for recipe in recipes}

    def draw(name: str, stage: str) -> None:
        bar.start()
        bar.update(tasks[name], description=f"[bold]{name}[/bold] {stage}", visible=True)
        if stage == _DONE:
            bar.update(tasks[name], total=1, completed=1)

    try:
        return build_models(recipes, draw)
    finally:
        if bar.live.is_started:  # stopping prints a line, even of nothing
            bar.stop()


def _log_progress(name: str, stage: str) -> None:
    if stage in {_WAITING, _DONE}:
        _log.info("making the model %s: %s", name, stage)


def _path(recipe: Recipe, cache: Path) -> Path:
    return cache / f"{recipe.name}-{recipe.digest}.onnx"


def _built(recipe: Recipe, cache: Path) -> BuiltModel:
    path = _path(recipe, cache)
    labels = path.with_suffix(".txt")
    return BuiltModel(path, labels if labels.exists() else None)


def _run_recipes(recipes: Sequence[Recipe], cache: Path, report: OnProgress) -> None:
    """Make models of one source in one child; they enter the cache when all are complete."""
    names = [recipe.name for recipe in recipes]
    for name in names:
        report(name, _WAITING)
    source = recipes[0].module or str(recipes[0].file)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=cache) as output:
        arguments = (output, str(recipes[0].directory), source, *names)
        if error := _run_child(f"recipe {', '.join(names)}", arguments, report):
            raise RecipeError(error)
        for recipe in recipes:
            _keep(recipe, Path(output), cache)
    for name in names:
        report(name, _DONE)


def _run_child(label: str, arguments: Sequence[str], report: OnProgress) -> str:
    """Run the child, report its progress, and return its error, or nothing."""
    printed = OutputReader(label, logging.INFO)
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as events:
        child = start_child(
            "workers.builder", writer, *arguments, inherited=(writer,), output=printed
        )
        with child:
            error = _follow(events, report)
            code = child.wait()
    if code == 0 or error:
        return error
    return f"{label}: the process that makes it {describe_exit(code, printed.last_line())}"


def _keep(recipe: Recipe, output: Path, cache: Path) -> None:
    """Move a recipe's files into the cache, the model last: where it is, the labels are."""
    made, path = output / f"{recipe.name}.onnx", _path(recipe, cache)
    if not made.exists():
        raise RecipeError(f"recipe {recipe.name}: it has written no model")
    if (labels := made.with_suffix(".txt")).exists():
        labels.replace(path.with_suffix(".txt"))
    made.replace(path)


def _follow(lines: IO[bytes], report: OnProgress) -> str:
    """Report a child's progress until it ends; return its error, or nothing."""
    error = ""
    for line in lines:
        event = msgspec.json.decode(line, type=Event)
        if event.error:
            error = event.error
        else:
            report(event.name, event.stage)
    return error
