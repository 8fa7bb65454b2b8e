"""Puts the files of a configuration in place: fetches those at URLs, checks those that are pinned.

Runs in the supervisor, or the process of a command, before models are inspected; no other process
ever fetches anything. A configuration flows in; one in which every path is that of a file flows
out. Progress is a bar on a terminal, else a line of the log when a file begins.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from server.config import Config
from server.config.loading import file_paths
from server.errors import ConfigError, StartError
from workers.backends.onnx_file import OnnxFileError, external_files
from workers.fetcher.cache import OnProgress, fetch_files
from workers.fetcher.protocol import FetchError
from workers.fetcher.source import SCHEMES, FileSource

__all__ = ["local_files"]

_log = logging.getLogger(__name__)


def local_files(config: Config) -> Config:
    """Return a configuration whose files are all on this machine, and have the pinned content.

    Raises:
        ConfigError: if a file does not exist, may not be read, or has another content.
        StartError: if a file can't be reached at present and is not in the cache.
    """
    keys = {path: key for key, path in file_paths(config)}
    files = {path: source for path, source in config.files.items() if path in keys}
    if not files:
        return config
    remote = {path: source for path, source in files.items() if source.scheme}
    if problems := [*_missing_packages(keys, remote), *_changed_files(files, keys)]:
        raise ConfigError(problems)
    try:
        with _progress_on_stderr() as on_progress:
            found = fetch_files([*remote.values()], on_progress)
    except OSError as error:
        raise StartError(f"can't keep files in the cache: {error}") from None
    _raise_failures({keys[path]: (source, found[source]) for path, source in remote.items()})
    local: Config = _with_paths(config, {path: found[source] for path, source in remote.items()})
    return local


def _missing_packages(keys: Mapping[Path, str], remote: Mapping[Path, FileSource]) -> Iterator[str]:
    for path, source in remote.items():
        if missing := [name for name in SCHEMES[source.scheme] if find_spec(name) is None]:
            yield (
                f"{keys[path]}: {source.shown}: needs {' and '.join(missing)}: "
                "pip install 'ensembled[remote]'"
            )


def _changed_files(files: Mapping[Path, FileSource], keys: Mapping[Path, str]) -> Iterator[str]:
    for path, source in files.items():
        if source.scheme:
            continue
        where = f"{keys[path]}: {path}"
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            weights = external_files(path) if path.suffix.lower() == ".onnx" else ()
        except (OSError, OnnxFileError) as error:
            yield f"{where}: {error}"
            continue
        if found != source.sha256:
            yield f"{where}: its content has the sha256 {found}, not the pinned {source.sha256}"
        if weights:
            names = ", ".join(one.name for one in weights)
            yield f"{where}: keeps its weights in {names}, which its sha256 says nothing about"


def _raise_failures(found: Mapping[str, tuple[FileSource, Path | FetchError]]) -> None:
    failures = {
        f"{key}: {source.shown}: {result}": result.is_wrong
        for key, (source, result) in found.items()
        if isinstance(result, FetchError)
    }
    if any(failures.values()):
        raise ConfigError(failures)
    if failures:
        raise StartError("\n".join(failures))


def _with_paths(value: Any, paths: Mapping[Path, object]) -> Any:
    """Return a section, or a part of one, with other paths."""
    if isinstance(value, Path):
        return paths.get(value, value)
    if isinstance(value, BaseModel):
        inner = {name: _with_paths(old, paths) for name, old in value}
        # What is not given must stay so, see `model_fields_set`.
        return value.model_copy(
            update={n: new for n, new in inner.items() if n in value.model_fields_set}
        )
    if isinstance(value, dict):
        return {name: _with_paths(inner, paths) for name, inner in value.items()}
    return value


@contextmanager
def _progress_on_stderr() -> Iterator[OnProgress]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log_progress()
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24))
    with Progress(*columns, DownloadColumn(), TransferSpeedColumn(), console=console) as bar:
        tasks = {}

        def draw(shown: str, done: int, total: int) -> None:
            if shown not in tasks:
                tasks[shown] = bar.add_task(shown, total=None)
            bar.update(tasks[shown], completed=done, total=total or None)

        yield draw


def _log_progress() -> OnProgress:
    begun = set()

    def log(shown: str, _done: int, total: int) -> None:
        if shown not in begun:
            begun.add(shown)
            _log.info("fetching %s, %s bytes", shown, total or "?")

    return log
