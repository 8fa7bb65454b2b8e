"""Keeps the places in code that pages name: `python docs/tools/lines.py` (`make docs`).

A page names a place as a link whose text is a qualified name, like
``[`Engine.submit`](server/engine/engine.py#L88)``. The line is that of its definition; this writes
it anew. A name that the file does not define is an error.
"""

from __future__ import annotations

import ast
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("ARCHITECTURE.md", "docs/where-to-change.md")
_PLACE = re.compile(r"\[`([\w.]+)`\]\(([\w./-]+\.py)#L(\d+)\)")


class PlaceError(Exception):
    """A page names a place that is not there."""


def definitions(source: str) -> dict[str, int]:
    """Return the lines of all classes, functions and module-level names, by qualified name."""
    return dict(_definitions(ast.parse(source), ""))


def _definitions(node: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child.lineno
            yield from _definitions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.Assign | ast.AnnAssign):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            yield from (
                (prefix + one.id, child.lineno) for one in targets if isinstance(one, ast.Name)
            )


def renewed(text: str, page: str) -> str:
    """Return a page's text with the lines as they are now.

    Raises:
        PlaceError: if a file or a name is not there.
    """

    def place(found: re.Match[str]) -> str:
        name, link, _ = found.groups()
        path = ROOT / posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
        if not path.exists():
            raise PlaceError(f"{page}: no file {link}")
        line = definitions(path.read_text()).get(name)
        if line is None:
            raise PlaceError(f"{page}: {link} defines no {name}")
        return f"[`{name}`]({link}#L{line})"

    return _PLACE.sub(place, text)


def main() -> None:
    """Write the lines anew in all pages."""
    for page in PAGES:
        path = ROOT / page
        try:
            path.write_text(renewed(path.read_text(), page))
        except PlaceError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
