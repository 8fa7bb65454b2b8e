"""Finds recipes: the Python functions that make model files, as a configuration names them.

Runs in the supervisor. References such as ``models/digits.py:digits_mlp`` flow in, `Recipe`s flow
out. Their source is parsed, for the names in it and for the cache's key, but never run here: that
is left to a child process (`workers.builder.__main__`).
"""

from __future__ import annotations

import hashlib
import logging
import symtable
from dataclasses import dataclass
from pathlib import Path

from workers.runtime.python_files import module_file, python_file, sources

__all__ = ["Recipe", "RecipeError", "find_recipe"]

_log = logging.getLogger(__name__)
#: Where a recipe without a file is looked for, relative to the configuration file.
_EXAMPLES = "../examples/models"


class RecipeError(Exception):
    """A model could not be made; the text is one line that names the recipe and the fix."""


@dataclass(frozen=True)
class Recipe:
    """A function that makes a model: ``recipe(path, report)``, see docs/members.md.

    Attributes:
        name: of the function.
        file: the Python file that defines it at its top level.
        module: the dotted name to import it by; empty if it is loaded as a file.
        directory: where its own imports are looked up, after the installed packages.
        digest: hash of the file and of the modules beside it that it imports.
    """

    name: str
    file: Path
    module: str
    directory: Path
    digest: str


def find_recipe(reference: str, directory: Path) -> Recipe:
    """Return the recipe that a configuration names, or raise RecipeError.

    Args:
        reference: ``FILE.py:NAME`` or ``package.module:NAME``; a bare ``NAME``, as it was written
            once, is looked up in ``../examples/models``.
        directory: of the configuration file; relative files and modules are looked up there.
    """
    where, colon, name = reference.rpartition(":")
    if not colon:
        return _find_bare(reference, directory)
    if where.endswith(".py"):
        file = python_file(where, directory)
        if not file.is_file():
            raise RecipeError(f"recipe {reference!r}: there is no file {file}")
        return _recipe(reference, name, file, "", file.parent)
    module = module_file(where, directory)
    if module is None:
        raise RecipeError(
            f"recipe {reference!r}: there is no module {where!r}, also not in {directory}"
        )
    return _recipe(reference, name, module, where, directory)


def _find_bare(name: str, directory: Path) -> Recipe:
    for file in sorted((directory / _EXAMPLES).glob("*.py")):
        if _defines(file, name):
            reference = f"{_EXAMPLES}/{file.name}:{name}"
            _log.warning("recipe %r: write it as %r, with its file", name, reference)
            return find_recipe(reference, directory)
    raise RecipeError(
        f"recipe {name!r}: recipes are written FILE.py:NAME, relative to the configuration file, "
        "or package.module:NAME"
    )


def _recipe(reference: str, name: str, file: Path, module: str, directory: Path) -> Recipe:
    try:
        if not _defines(file, name):
            raise RecipeError(f"recipe {reference!r}: {file} defines no {name!r} at its top level")
        digest = hashlib.sha256()
        for source in sources(file):
            digest.update(source.read_bytes())
    except (OSError, SyntaxError, ValueError) as failure:
        raise RecipeError(f"recipe {reference!r}: can't read {file}: {failure}") from failure
    return Recipe(name, file, module, directory, digest.hexdigest()[:16])


def _defines(file: Path, name: str) -> bool:
    """Whether a file binds a name at its top level."""
    table = symtable.symtable(file.read_text(encoding="utf-8"), str(file), "exec")
    if name not in table.get_identifiers():
        return False
    symbol = table.lookup(name)
    return symbol.is_assigned() or symbol.is_imported()
