"""Says in one line why an environment can't be made here, and exits with 1; nothing if it can.

`make setup` runs it with the Python that the environment is to be made with, which may be an old
one: hence the plain syntax.
"""

import importlib.util
import shutil
import sys

OLDEST = (3, 11)
#: What an environment for development takes with torch for CPUs, and pip while it installs that.
ROOM_BYTES = 3 * 10**9


def problem(version, has_venv, free_bytes):
    """Return what is wrong, or an empty text."""
    if version < OLDEST:
        example = f"make PYTHON=python{_text(OLDEST)} setup"
        return f"Python {_text(version)} is too old, {_text(OLDEST)} is needed: {example}"
    if not has_venv:
        return f"this Python has no venv module: apt install python{_text(version)}-venv"
    if free_bytes < ROOM_BYTES:
        return f"{free_bytes / 1e9:.1f} GB are free here, {ROOM_BYTES / 1e9:.1f} are needed"
    return ""


def _text(version):
    return ".".join(map(str, version))


if __name__ == "__main__":
    HAS_VENV = all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))
    FOUND = problem(sys.version_info[:2], HAS_VENV, shutil.disk_usage(".").free)
    if FOUND:
        sys.exit("setup: " + FOUND)
