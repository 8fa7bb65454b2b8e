"""The directory of the sockets between the processes of a server, for its owner alone.

Runs in the process that becomes the supervisor. Its directory is locked for as long as it lives. A
supervisor that is killed can't remove its directory any more; the next one that starts does, since
nobody holds its lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq

from server.errors import StartError
from workers.runtime.channels import COMBINER, FRONT_END, WORKERS

__all__ = ["socket_directory"]

_PREFIX = "ensembled-sockets-"


@contextmanager
def socket_directory() -> Iterator[str]:
    """A new directory among the temporary files, removed in the end.

    Raises:
        OSError: if none can be made.
        StartError: if its name is too long.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            _remove_if_dead(path)
    path, lock = _make()
    try:
        if len(os.fsencode(path / FRONT_END)) > zmq.IPC_PATH_MAX_LEN:
            raise StartError(f"{path.parent} is too long a name for sockets: set TMPDIR")
        yield str(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _make() -> tuple[Path, int]:
    """A directory, and the descriptor that holds its lock."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # Before it is locked, another server may take it for a dead one's.
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(OSError):  # there are file systems without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return path, lock
            os.close(lock)


def _remove_if_dead(path: Path) -> None:
    """Remove a directory if it is one of ours and its server is dead; it has nothing but sockets.

    Raises:
        OSError: if it has something else, or its server lives.
    """
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in (WORKERS, FRONT_END, COMBINER):
            (path / name).unlink(missing_ok=True)
        path.rmdir()
    finally:
        os.close(lock)
