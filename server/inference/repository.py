"""The model repository: clients load and unload models, and have the configuration read again.

Runs in the front-end, under every protocol. What a client asks for flows in; it is checked against
what the operator permits, its files are put on disk, and the supervisor makes the change.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import tempfile
from collections.abc import Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any

from allocator.matrix import AllocationMatrix
from server.control import (
    ChangeRequest,
    ChangeResult,
    LoadRequest,
    PlaceRequest,
    ReloadRequest,
    RolloutAction,
    RolloutRequest,
    UnloadRequest,
)
from server.errors import ChangeFailed, Forbidden, InvalidRequest
from server.inference.control import Control
from server.inference.spec import RepositorySpec

__all__ = ["CONFIG", "UNLOAD_DEPENDENTS", "Repository"]

#: The parameters of requests, as Triton's extension has them; others of a load are files.
CONFIG, UNLOAD_DEPENDENTS = "config", "unload_dependents"
_FILE = "file:"
#: Version and path below it; no name begins with a dot.
_PATH = re.compile(r"[0-9]{1,18}(/[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,127}){1,4}")
_MAX_FILES = 256
#: As configurations have them; a request is one line to the supervisor, and not a long one.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,255}")
_MAX_PATH_BYTES = 4096
#: It becomes part of a line to the supervisor, in which quotes take twice as many bytes.
_MAX_CONFIG_BYTES = 24 << 10

Files = Mapping[str, Iterable[bytes | memoryview]]


class Repository:
    """The changes that clients ask for."""

    def __init__(self, control: Control, spec: RepositorySpec) -> None:
        self._control = control
        self._spec = spec
        self._tasks: set[asyncio.Task[ChangeResult]] = set()

    def check_permitted(self) -> None:
        """Raise `Forbidden` if models may neither be loaded nor unloaded."""
        if not self._spec.allows_control:
            raise Forbidden(
                "models can't be loaded or unloaded: server.repository.control is none in the "
                "server's configuration, explicit would permit it"
            )

    async def load(self, model: str, config: str, files: Files) -> ChangeResult:
        """Load a model, or load it again, by a configuration (JSON) and files of the client's.

        The files are pieces of content by ``file:VERSION/NAME``; they are read in a thread. The
        change is made even if the task is cancelled.

        Raises:
            Forbidden: if the operator does not permit it.
            InvalidRequest: if the request is wrong.
            ChangeFailed: if the server could not do it.
            QueueFull: if too many changes are waiting.
        """
        self.check_permitted()
        _check_name(model)
        if (config or files) and not self._spec.allows_overrides:
            raise Forbidden(
                "a model is loaded by the server's own configuration and files: "
                "server.repository.overrides: true in it would permit others"
            )
        paths = [_checked_path(name) for name in files]
        if len(paths) > _MAX_FILES:
            raise InvalidRequest(f"{len(paths)} files are too many, at most {_MAX_FILES} are taken")
        config = _compact(config)
        contents = dict(zip(paths, files.values(), strict=True))
        return await self._finish(self._load(model, config, contents))

    async def unload(self, model: str, *, dependents: bool) -> ChangeResult:
        """Unload a model, and with `dependents` the members that no other model needs.

        Raises as `load`.
        """
        self.check_permitted()
        _check_name(model)
        return await self._finish(self._ask(UnloadRequest(model, dependents)))

    async def reload(self, path: str, *, dry_run: bool) -> ChangeResult:
        """Have the configuration read again; a `path` must be that of the server's own.

        Raises as `load`, except `Forbidden`.
        """
        if len(os.fsencode(path)) > _MAX_PATH_BYTES or not path.isprintable():
            raise InvalidRequest("path is no path of a file")
        return await self._finish(self._ask(ReloadRequest(path, dry_run)))

    async def place(self, matrix: str, *, dry_run: bool) -> ChangeResult:
        """Have the models served by another allocation, the text of an allocation file.

        Raises as `load`, except `Forbidden`.
        """
        try:
            matrix = AllocationMatrix.from_json(matrix).to_json()
        except ValueError as error:
            raise InvalidRequest(f"the allocation: {error}") from None
        if len(matrix) > _MAX_CONFIG_BYTES:
            raise InvalidRequest(
                f"the allocation has {len(matrix)} bytes, at most {_MAX_CONFIG_BYTES} are taken"
            )
        return await self._finish(self._ask(PlaceRequest(matrix, "by hand", dry_run)))

    async def rollout(self, model: str, action: RolloutAction, percent: float) -> ChangeResult:
        """End the roll-out of a model, or change the share that its new version gets.

        Raises as `load`, except `Forbidden`.
        """
        return await self._finish(self._ask(RolloutRequest(model, action, percent, "by hand")))

    async def _finish(self, change: Coroutine[Any, Any, ChangeResult]) -> ChangeResult:
        """Run a change to its end, even if nobody waits for it any more."""
        task = asyncio.get_running_loop().create_task(change)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _load(self, model: str, config: str, files: Files) -> ChangeResult:
        if not files:
            return await self._ask(LoadRequest(model, config))
        directory = _make_directory(Path(self._spec.uploads))
        try:
            await asyncio.to_thread(_write, directory, files)
            return await self._ask(LoadRequest(model, config, str(directory)))
        except BaseException:  # it was not loaded: nobody needs them
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
            raise

    async def _ask(self, request: ChangeRequest) -> ChangeResult:
        result = await self._control.ask(request)
        if result.error:
            raise (InvalidRequest if result.is_wrong else ChangeFailed)(result.error)
        return result


def _check_name(model: str) -> None:
    if not _NAME.fullmatch(model):
        raise InvalidRequest(f"there is no model {model[:100]!r}: no name is like this")


def _checked_path(name: str) -> str:
    """The path of a file's name; it is below the directory of a version."""
    path = name.removeprefix(_FILE)
    if path == name:
        raise InvalidRequest(
            f"unknown parameter {name!r}: a load takes {CONFIG} and file:VERSION/NAME"
        )
    if not _PATH.fullmatch(path):
        raise InvalidRequest(f"{name!r} should be file:VERSION/NAME, such as file:1/model.onnx")
    return path


def _compact(config: str) -> str:
    """A configuration without white space; it is checked for being a JSON object of some size."""
    if not config:
        return ""
    try:
        document = json.loads(config)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{CONFIG} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidRequest(f"{CONFIG} should be a JSON object")
    text = json.dumps(document, separators=(",", ":"))
    if len(text) > _MAX_CONFIG_BYTES:
        raise InvalidRequest(
            f"{CONFIG} has {len(text)} bytes, at most {_MAX_CONFIG_BYTES} are taken"
        )
    return text


def _make_directory(parent: Path) -> Path:
    parent.mkdir(mode=0o700, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=parent))


def _write(directory: Path, files: Files) -> None:
    """Write files by their paths below a directory."""
    for path, pieces in files.items():
        target = directory / path
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with target.open("xb") as file:
                for piece in pieces:
                    file.write(piece)
        except (FileExistsError, NotADirectoryError):
            raise InvalidRequest(f"{_FILE}{path} is a file and a directory") from None
        except OSError as error:
            raise ChangeFailed(f"{_FILE}{path} can't be stored: {error.strerror}") from None
