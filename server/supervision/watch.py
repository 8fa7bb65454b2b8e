"""Watches the files that a server serves, and says when they have changed.

Runs in the supervisor, if `server.watch` asks for it. Paths flow in, one item per burst of changes
flows out. The system's notifications (and a look each second, for file systems without any) are
only wake-ups: what counts is whether a file is another one than before, so nothing is missed while
editors rename files, directories vanish and come again, or a watch is set up anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from pathlib import Path

from watchfiles import awatch

__all__ = ["FileWatch"]

_LOOK_MS = 1000
#: How long notifications are collected.
_STEP_MS = 50

#: A file's identity, size and time; None if it is not there.
_Stamp = tuple[int, int, int] | None
#: By path its stamp, or those of all files in a directory.
_Snapshot = dict[Path, frozenset[tuple[str, _Stamp]]]


class FileWatch:
    """Watches the files, and all that is in the directories, at the paths that `paths` returns.

    A burst of changes is over when nothing has changed for `debounce_s` seconds. A file that is
    being written is reported after that, and again each time when it has gone on.
    """

    def __init__(self, paths: Callable[[], Collection[Path]], debounce_s: float) -> None:
        self._paths = paths
        self._debounce_s = debounce_s
        # It tells of each notification, also of files that nobody serves.
        logging.getLogger("watchfiles").setLevel(logging.WARNING)

    async def bursts(self) -> AsyncGenerator[None, None]:
        """Yield once for each burst of changes, for ever."""
        seen = await self._look()
        while True:
            directories = await asyncio.to_thread(_directories, self._paths())
            async with contextlib.aclosing(_wake_ups(directories)) as wake_ups:
                async for _ in wake_ups:
                    now = await self._look()
                    if _differs(seen, now):
                        seen = await self._settled(now)
                        yield
                    seen |= {path: now[path] for path in now.keys() - seen.keys()}
                    if directories != await asyncio.to_thread(_directories, self._paths()):
                        break

    async def _settled(self, now: _Snapshot) -> _Snapshot:
        """Wait until nothing changes any more; return what is there then."""
        while True:
            await asyncio.sleep(self._debounce_s)
            again = await self._look()
            if not _differs(now, again):
                return again
            now = again

    async def _look(self) -> _Snapshot:
        return await asyncio.to_thread(_snapshot, self._paths())


async def _wake_ups(directories: Collection[Path]) -> AsyncGenerator[None, None]:
    """Yield at each notification, and each second; end if a directory is not there any more."""
    with contextlib.suppress(FileNotFoundError):
        async for _ in awatch(
            *directories,
            watch_filter=None,
            debounce=_STEP_MS,
            step=_STEP_MS,
            rust_timeout=_LOOK_MS,
            yield_on_timeout=True,
            recursive=False,
            ignore_permission_denied=True,
        ):
            yield
    yield


def _differs(before: _Snapshot, now: _Snapshot) -> bool:
    """Whether something is different at the paths that both know."""
    return any(now[path] != before[path] for path in now.keys() & before.keys())


def _snapshot(paths: Iterable[Path]) -> _Snapshot:
    found: _Snapshot = {}
    for path in paths:
        files = path.rglob("*") if path.is_dir() else [path]
        with contextlib.suppress(OSError):  # a directory has vanished meanwhile
            found[path] = frozenset((str(file), _stamp(file)) for file in files)
    return found


def _stamp(file: Path) -> _Stamp:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _directories(paths: Iterable[Path]) -> set[Path]:
    """The directories to watch: those of files, all in directories, or the nearest that exist."""
    directories: set[Path] = set()
    for path in paths:
        with contextlib.suppress(OSError):
            directories.add(next(one for one in path.parents if one.is_dir()))
            if path.is_dir():
                directories |= {path, *(one for one in path.rglob("*") if one.is_dir())}
    return directories
