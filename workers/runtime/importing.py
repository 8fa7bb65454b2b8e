"""Imports what a user's configuration names: rules, recipes and members written in Python.

Runs in the combiner, in workers and in the children that try things out; the supervisor looks at
such files only with `workers.runtime.python_files`. References such as ``package.module:NAME`` and
``FILE.py:NAME`` flow in, objects flow out.

Once a module of a user has changed on disk, the next import of any of them imports them all anew.
Objects of before keep the modules that they were made in, so that an older deployment runs its own
code until it ends. Installed packages are not imported again.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType
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

_OWN = str(Path(__file__).parents[1])
#: Those of users, in which modules are looked up.
_directories: list[str] = []


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
    _add_directory(directory)
    _forget_changed()
    return _import_file(where) if where.endswith(".py") else importlib.import_module(where)


class _UsersLoader(SourceFileLoader):
    """Loads a user's module from its source.

    The interpreter's cache of compiled modules would not notice a change within a second.
    """

    def __init__(self, fullname: str, path: str) -> None:
        super().__init__(fullname, path)
        self._read: tuple[int, int] | None = None

    def get_code(self, fullname: str) -> CodeType:
        """Compile the file as it is now."""
        self._read = self._stamp()
        return self.source_to_code(self.get_data(self.path), self.path)

    def has_changed(self) -> bool:
        """Whether the file is not what was read from it."""
        return self._read != self._stamp()

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns


def _add_directory(directory: str) -> None:
    """Have modules looked up in a directory that are not installed."""
    if not directory or directory in _directories:
        return
    if not _directories:
        sys.path_hooks.insert(0, _finder)
    _directories.append(directory)
    sys.path_importer_cache.pop(directory, None)
    if directory not in sys.path:
        # At the end: a file that lies there must not stand in for an installed module.
        sys.path.append(directory)


def _finder(path: str) -> FileFinder:
    """A path hook for users' directories and the packages in them."""
    if not _is_users(path):
        raise ImportError
    return FileFinder(
        path, (ExtensionFileLoader, EXTENSION_SUFFIXES), (_UsersLoader, SOURCE_SUFFIXES)
    )


def _is_users(path: str) -> bool:
    """Whether a directory is one of users', or in one, and not in installed packages."""
    within = [one for one in (*sys.path, _OWN) if f"{path}{os.sep}".startswith(f"{one}{os.sep}")]
    return bool(within) and max(within, key=len) in _directories


def _forget_changed() -> None:
    """Have all modules of users imported anew if one of them has changed."""
    importlib.invalidate_caches()
    specs = {name: getattr(module, "__spec__", None) for name, module in [*sys.modules.items()]}
    loaders = {
        name: spec.loader
        for name, spec in specs.items()
        if spec is not None and isinstance(spec.loader, _UsersLoader)
    }
    if any([loader.has_changed() for loader in loaders.values()]):
        for name, spec in specs.items():
            if name in loaders or (spec is not None and _is_namespace(spec)):
                sys.modules.pop(name, None)


def _is_namespace(spec: ModuleSpec) -> bool:
    """Whether it is a package of a user without a file, which has modules as attributes."""
    places = spec.submodule_search_locations or ()
    return spec.origin is None and any([_is_users(place) for place in places])


def _import_file(path: str) -> ModuleType:
    """Import a file under a name of its own, so that it replaces no module."""
    name = f"_ensembled_{Path(path).stem}"
    if name in sys.modules and sys.modules[name].__file__ == path:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path, loader=_UsersLoader(name, path))
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
    for frame in reversed(traceback.extract_tb(failure.__traceback__)):
        if not frame.filename.startswith((*_LIBRARIES, _OWN, "<")):
            return f" ({Path(frame.filename).name}, line {frame.lineno})"
    return ""
