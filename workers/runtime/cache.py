"""The cache directory: results worth keeping between runs, such as built models and signatures.

Used by the supervisor, the model builder and inspection. Files appear under their final name only
when they are complete, so any number of processes may share the directory.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from workers.runtime.environment import make_private, private_directory

__all__ = ["cache_dir", "cache_part", "write_atomically"]


_CHOSEN = "ENSEMBLED_CACHE"
_log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Return the cache directory, after creating it (for its owner alone) if it is missing.

    It is ``$ENSEMBLED_CACHE``, else ``$XDG_CACHE_HOME/ensembled``, else ``~/.cache/ensembled``. If
    there is no home, or it may not be written to, it is a private one among the temporary files,
    for this process and its children; a warning says so.

    Raises:
        OSError: if it can't be created.
    """
    if chosen := os.environ.get(_CHOSEN):
        return _make(Path(os.path.expanduser(chosen)).absolute())
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    try:
        if not Path(base).is_absolute():
            raise FileNotFoundError("there is no home directory")
        return _make(Path(base, "ensembled"))
    except OSError as error:
        directory = _make(private_directory() / "cache")
        os.environ[_CHOSEN] = str(directory)
        _log.warning("the cache is in %s (%s): set %s to keep it", directory, error, _CHOSEN)
        return directory


def _make(directory: Path) -> Path:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def cache_part(name: str) -> Path:
    """Return a subdirectory of the cache for its owner alone, after creating it if it is missing.

    Models and signatures in it are trusted, so nobody else may be able to put them there.

    Raises:
        OSError: if it can't be created, or belongs to another user.
    """
    return make_private(cache_dir() / name)


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
