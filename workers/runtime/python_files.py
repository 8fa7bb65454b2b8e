"""Looks at the Python files that a configuration names, without importing them.

Runs in the supervisor, which never runs a user's code. References flow in, paths of files flow out.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

__all__ = ["module_file", "python_file", "sources"]


def python_file(where: str, directory: Path) -> Path:
    """Return the absolute path of a ``*.py`` file, given relative to a directory."""
    return Path(os.path.abspath(directory / Path(where).expanduser()))


def module_file(module: str, directory: Path) -> Path | None:
    """Return the file of a module, without importing its packages as `find_spec` would."""
    search: list[str] | None = [*sys.path, str(directory)]
    origin = None
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:count]), search)
        if spec is None:
            return None
        origin, search = spec.origin, spec.submodule_search_locations
    return Path(origin) if origin and origin.endswith(".py") else None


def sources(file: Path) -> list[Path]:
    """Return a file and the modules beside it that it imports, directly or not.

    Raises:
        OSError: if one can't be read.
        SyntaxError: if one is not Python.
        ValueError: if one is not text.
    """
    found = [file]
    for source in found:
        for name in _imported(ast.parse(source.read_bytes())):
            beside = source.parent / f"{name}.py"
            if beside not in found and beside.is_file():
                found.append(beside)
    return found


def _imported(module: ast.Module) -> Iterator[str]:
    """Yield the first parts of the names of all modules that a module imports."""
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield alias.name.partition(".")[0]
