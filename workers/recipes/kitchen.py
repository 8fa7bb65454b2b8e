"""Makes the models of recipes that are not in the cache yet, in child processes.

Runs in the supervisor before anything else starts. Recipe names go in, paths of model files come
out; progress arrives from the children as JSON lines.
"""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from workers.recipes.registry import RECIPES, Recipe, RecipeError
from workers.runtime.cache import cache_part
from workers.runtime.child_process import child_command
from workers.runtime.printed import PrintReader

__all__ = ["DONE", "Event", "RecipeResult", "ensure", "ensure_with_progress"]

_log = logging.getLogger(__name__)
#: The first stage of every recipe, and the last.
_FIRST = "waiting"
DONE = "done"

OnProgress = Callable[[str, str], None]


class Event(msgspec.Struct, frozen=True):
    """A line that a child writes: a recipe has reached a stage, or `error` ended everything."""

    name: str
    stage: str = ""
    error: str = ""


@dataclass(frozen=True)
class RecipeResult:
    """The files of one recipe: the model, and the names of its classes if they have any."""

    path: Path
    labels_path: Path | None


def ensure(names: Sequence[str], on_progress: OnProgress | None = None) -> dict[str, RecipeResult]:
    """Return the files of the named recipes, making the missing ones.

    Any number of processes may ask at the same time: one makes, the others wait.

    Args:
        names: recipes.
        on_progress: called with a recipe's name and stage; not at all if nothing has to be made.

    Returns:
        The files by the recipes' names.

    Raises:
        RecipeError: if there is no such recipe, or if making it failed.
    """
    if not names:
        return {}  # who needs no models needs no cache
    report = on_progress or (lambda name, stage: None)
    for name in names:
        if name not in RECIPES:
            raise RecipeError(f"there is no recipe {name!r}; there are: {', '.join(RECIPES)}")
    try:
        directory = cache_part("models")
        wanted = [RECIPES[name] for name in dict.fromkeys(names)]
        for module in dict.fromkeys(recipe.module for recipe in _missing(wanted, directory)):
            of_module = [recipe for recipe in wanted if recipe.module == module]
            with _lock(directory / f".{module}.lock"):
                missing = _missing(of_module, directory)
                if missing:
                    _make(missing, directory, report)
    except OSError as failure:
        raise RecipeError(f"can't keep models in the cache: {failure}") from failure
    return {name: _result(RECIPES[name], directory) for name in names}


def ensure_with_progress(names: Sequence[str]) -> dict[str, RecipeResult]:
    """Do what `ensure` does, and tell how it goes if something has to be made.

    On a terminal that is a bar, else a line of the log for each model that is to be made, or is.

    Raises:
        RecipeError: see `ensure`.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        return ensure(names, _log_ends)
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        console=console,
    )
    tasks = {name: bar.add_task(name, total=None, visible=False) for name in names}

    def draw(name: str, stage: str) -> None:
        bar.start()
        finished = stage == DONE
        text = f"[bold]{name}[/bold] {stage}"
        bar.update(tasks[name], description=text, visible=True)
        if finished:
            bar.update(tasks[name], total=1, completed=1)

    try:
        return ensure(names, draw)
    finally:
        if bar.live.is_started:  # stopping prints a line, even of nothing
            bar.stop()


def _log_ends(name: str, stage: str) -> None:
    if stage in {_FIRST, DONE}:
        _log.info("making the model %s: %s", name, stage)


def _result(recipe: Recipe, directory: Path) -> RecipeResult:
    labels = directory / recipe.labels_name if recipe.labels else None
    return RecipeResult(directory / recipe.file_name, labels)


def _missing(recipes: Sequence[Recipe], directory: Path) -> list[Recipe]:
    results = [(recipe, _result(recipe, directory)) for recipe in recipes]
    return [
        recipe
        for recipe, result in results
        if not result.path.exists() or (result.labels_path and not result.labels_path.exists())
    ]


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock, which the system releases even if this process dies."""
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(recipes: Sequence[Recipe], directory: Path, report: OnProgress) -> None:
    """Make models of one module in one child; they get their names when they are complete.

    Raises:
        RecipeError: if the child failed.
    """
    names = [recipe.name for recipe in recipes]
    for name in names:
        report(name, _FIRST)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=directory) as unfinished:
        printed = PrintReader(f"recipe {', '.join(names)}", logging.INFO)
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as events:
            try:
                child = subprocess.Popen(
                    child_command("workers.recipes", writer, unfinished, *names),
                    stdout=printed.fd,
                    stderr=printed.fd,
                    pass_fds=(writer,),
                )
            finally:
                os.close(writer)
                printed.started()
            with child:
                failed = _follow(events, report)
                code = child.wait()
        if code != 0 or failed:
            raise RecipeError(failed or _last_words(names, code, printed.last_line()))
        for file in sorted(Path(unfinished).iterdir()):
            file.replace(directory / file.name)
    for name in names:
        report(name, DONE)


def _follow(lines: IO[bytes], report: OnProgress) -> str:
    """Report a child's progress until it ends; return its error, or nothing."""
    failed = ""
    for line in lines:
        event = msgspec.json.decode(line, type=Event)
        if event.error:
            failed = event.error
        else:
            report(event.name, event.stage)
    return failed


def _last_words(names: Sequence[str], code: int, last: str) -> str:
    what = f"recipe {', '.join(names)}: the process that makes it exited {code}"
    return f"{what}: {last or 'no message'}"
