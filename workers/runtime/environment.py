"""The environment that this process and its children need, whatever they were started with.

Runs first in every process: in that of the command line, and in children. `prepare_environment`
turns telemetry of libraries off and provides a home directory: without one, libraries fail, or make
a directory ``~`` in the working directory.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

__all__ = ["make_private", "prepare_environment", "private_directory"]

#: ONNX Runtime from 1.29 on writes a device id and an event file into the home directory when it is
#: imported, unless this is set by then. The others tell what is loaded from a hub or a run.
_TELEMETRY_OFF = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
#: XDG's are to be ignored if relative, according to its Base Directory Specification.
_ABSOLUTE = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")


def prepare_environment() -> list[str]:
    """Prepare the environment of this process, which its children inherit; returns warnings.

    What the user has set about telemetry stays. Paths that are relative are no home: directories
    would be made wherever a command happens to be run.
    """
    for name, value in _TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)
    warnings = []
    for name in _ABSOLUTE:
        path = os.environ.get(name)
        if path is not None and not Path(path).is_absolute():
            del os.environ[name]
            if path:
                warnings.append(f"{name} is {path!r}, which is no absolute path: it is ignored")
    if "HOME" not in os.environ:
        warnings += _provide_home()
    return warnings


def _provide_home() -> list[str]:
    """Set HOME if neither it nor the list of users tells a home; returns a warning then."""
    with contextlib.suppress(RuntimeError):  # no passwd entry
        if Path.home().is_absolute():
            return []
    try:
        home = private_directory()
    except OSError as error:
        return [f"there is neither a home directory nor a temporary one: {error}"]
    os.environ["HOME"] = str(home)
    return [f"this user has no home directory, caches are in {home}: set ENSEMBLED_CACHE or HOME"]


def private_directory() -> Path:
    """Return a directory among the temporary files for this user alone, the same at each call.

    Raises:
        OSError: if it can't be created, or its name is taken by somebody else.
    """
    return make_private(Path(tempfile.gettempdir(), f"ensembled-{os.geteuid()}"))


def make_private(directory: Path) -> Path:
    """Return a directory that is for its owner alone, after creating it if it is missing.

    Raises:
        OSError: if it can't be created, or belongs to another user.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise PermissionError(f"{directory} is not a directory of this user")
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        directory.chmod(0o700)
    return directory
