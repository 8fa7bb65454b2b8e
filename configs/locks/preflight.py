"""Says in one line why an environment can't be made here, and exits with 1; nothing if it can.

`make setup` runs it with the Python that the environment is to be made with, which may be an old
one: hence the plain syntax.
"""

import importlib.util
import shutil
import sys

OLDEST = (3, 11)
#: What an environment for development takes with torch for CPUs, and pip while it installs that.
ROOM_BYTES = 2 * 10**9


def problem(version, has_venv, free_bytes):
    """Return what is wrong, or an empty text."""
    if version < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        found = ".".join(map(str, version))
        return "Python %s is too old, at least %s is needed: make PYTHON=python%s setup" % (
            found, wanted, wanted,
        )  # fmt: skip
    if not has_venv:
        return "this Python has no venv module: apt install python%d.%d-venv" % version
    if free_bytes < ROOM_BYTES:
        return "%.1f GB are free here, %.0f GB are needed" % (free_bytes / 1e9, ROOM_BYTES / 1e9)
    return ""


if __name__ == "__main__":
    HAS_VENV = all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))
    FOUND = problem(sys.version_info[:2], HAS_VENV, shutil.disk_usage(".").free)
    if FOUND:
        sys.exit("setup: " + FOUND)
