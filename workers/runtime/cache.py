"""The cache directory: results worth keeping between runs, such as built models and signatures.

Used by the supervisor, the model builder and inspection. Files appear under their final name only
when they are complete, so any number of processes may share the directory.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

__all__ = ["cache_dir", "cache_part", "write_atomically"]


def cache_dir() -> Path:
    """Return the cache directory, after creating it (for its owner alone) if it is missing.

    It is ``$ENSEMBLED_CACHE``, else ``$XDG_CACHE_HOME/ensembled``, else ``~/.cache/ensembled``.

    Raises:
        OSError: if it can't be created.
    """
    chosen = os.environ.get("ENSEMBLED_CACHE")
    if chosen:
        directory = Path(chosen)
    else:
        base = os.environ.get("XDG_CACHE_HOME")
        directory = (Path(base) if base else Path.home() / ".cache") / "ensembled"
    directory = directory.expanduser().absolute()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def cache_part(name: str) -> Path:
    """Return a subdirectory of the cache for its owner alone, after creating it if it is missing.

    Models and signatures in it are trusted, so nobody else may be able to put them there.

    Raises:
        OSError: if it can't be created, or belongs to another user.
    """
    directory = cache_dir() / name
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise PermissionError(f"{directory} is not a directory of this user")
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        directory.chmod(0o700)
    return directory


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that readers see the old file or the whole new one.

    Raises:
        OSError: if it can't be written; nothing is left behind then.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
