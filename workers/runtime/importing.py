"""Imports what a user's configuration names: rules, recipes and members written in Python.

Runs in the combiner, in workers and in the children that try things out; the supervisor looks at
such files only with `workers.runtime.python_files`. References such as ``package.module:NAME`` and
``FILE.py:NAME`` flow in, objects flow out.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from workers.runtime.texts import abridge_line

__all__ = [
    "ImportFailed",
    "describe_failure",
    "import_function",
    "import_module",
    "import_object",
]

_LIBRARIES = tuple(
    sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


class ImportFailed(Exception):
    """A reference can't be resolved; the text is one line that says why."""


def import_object(reference: str, directory: str) -> Any:
    """Return what ``package.module:NAME`` or ``FILE.py:NAME`` names.

    Modules are looked up in `directory` if they are not installed, and beside a file.

    Raises:
        ImportFailed: if there is no such module or name, or importing it fails in any way.
    """
    where, _, name = reference.rpartition(":")
    if where.endswith(".py") and not Path(where).is_file():
        raise ImportFailed(f"there is no file {where}")
    try:
        module = import_module(where, directory)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{where}.".startswith(f"{missing.name}."):
            raise ImportFailed(
                f"importing {where} failed: {describe_failure(missing)}"
            ) from missing
        beside = f", also not in {directory}" if directory else ""
        raise ImportFailed(f"there is no module {missing.name!r}{beside}") from None
    except BaseException as failure:  # SystemExit, too
        raise ImportFailed(f"importing {where} failed: {describe_failure(failure)}") from failure
    found = getattr(module, name, None)
    if found is None:
        file = getattr(module, "__file__", None)
        named = f"module {where}" + (f" ({file})" if file and file != where else "")
        raise ImportFailed(f"{named} has no {name!r}")
    return found


def import_function(reference: str, directory: str) -> Callable[..., Any]:
    """Return the function that a reference names, see `import_object`.

    Raises:
        ImportFailed: also if it is no function.
    """
    function = import_object(reference, directory)
    if not callable(function):
        module, _, name = reference.rpartition(":")
        raise ImportFailed(f"{name!r} of module {module} is not a function")
    found: Callable[..., Any] = function
    return found


def import_module(where: str, directory: str) -> ModuleType:
    """Import a module by its dotted name, or a file ``*.py``, see `import_object`.

    Raises whatever the module raises.
    """
    # At the end: a file that lies there must not stand in for an installed module.
    if directory and directory not in sys.path:
        sys.path.append(directory)
    return _import_file(where) if where.endswith(".py") else importlib.import_module(where)


def _import_file(path: str) -> ModuleType:
    """Import a file under a name of its own, so that it replaces no module."""
    name = f"_ensembled_{Path(path).stem}"
    if name in sys.modules and sys.modules[name].__file__ == path:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def describe_failure(failure: BaseException) -> str:
    """Return an exception in one line: its type, its message, and where the user's code raised it.

    A message that is too long loses its middle.
    """
    text = f"{type(failure).__name__}: {failure}".rstrip().removesuffix(":")
    text = text.encode(errors="replace").decode()  # half a surrogate pair can't be sent
    return abridge_line(text) + _place(failure)


def _place(failure: BaseException) -> str:
    """Where the innermost code outside libraries and this package was, empty if there is none."""
    if isinstance(failure, SyntaxError):  # whose message has it
        return ""
    own = str(Path(__file__).parents[1])
    for frame in reversed(traceback.extract_tb(failure.__traceback__)):
        if not frame.filename.startswith((*_LIBRARIES, own, "<")):
            return f" ({Path(frame.filename).name}, line {frame.lineno})"
    return ""
