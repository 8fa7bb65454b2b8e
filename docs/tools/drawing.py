"""Draws which package imports which, from the code: `python docs/tools/drawing.py` (`make docs`).

The import graph flows in, `docs/packages.svg` flows out. A package stands above all that it
imports; an arrow that follows from others is left out. A circle between packages is an error.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

import grimp

ROOT = Path(__file__).resolve().parents[2]
SVG = ROOT / "docs/packages.svg"
ROOTS = ("server", "allocator", "workers", "ensembled_client")
_BOX, _HEIGHT, _GAP, _ROW = 132, 30, 14, 72
#: Begins the name of a place where an arrow passes a row.
_PASSING = ">"
_STYLE = """
  text { font: 12px system-ui, sans-serif; text-anchor: middle; fill: #222 }
  polyline { fill: none; stroke: #8a8f98; stroke-linejoin: round }
  rect { stroke-width: 1; stroke: #0003 }
  .server { fill: #dbe7fb } .allocator { fill: #e4f3dc }
  .workers { fill: #fbe9d2 } .ensembled_client { fill: #ecdff5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #eee } polyline { stroke: #777d87 }
    .server { fill: #24406b } .allocator { fill: #2f5420 }
    .workers { fill: #6b4717 } .ensembled_client { fill: #4f3066 }
  }
"""


def imports_between_packages() -> dict[str, set[str]]:
    """Return which package imports which; modules outside a package count as their root."""
    graph = grimp.build_graph(*ROOTS, cache_dir=None)
    packages = {name for name in graph.modules if _is_package(name)}
    imports: dict[str, set[str]] = {name: set() for name in sorted(packages)}
    for module in graph.modules:
        importer = _package_of(module, packages)
        for imported in graph.find_modules_directly_imported_by(module):
            package = _package_of(imported, packages)
            if package != importer:
                imports[importer].add(package)
    return {name: found for name, found in imports.items() if _has_code(name)}


def reduced(imports: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """Leave out the imports that follow from others."""
    reach: dict[str, set[str]] = {}
    for name in TopologicalSorter(imports).static_order():
        found = set(imports.get(name, ()))
        reach[name] = found.union(*(reach[each] for each in found))
    return {
        name: set(found) - {far for near in found for far in reach[near]}
        for name, found in imports.items()
    }


def levels(imports: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return the packages from top to bottom, each above all that it imports."""
    height: dict[str, int] = {}
    for name in TopologicalSorter(imports).static_order():
        height[name] = 1 + max((height[each] for each in imports.get(name, ())), default=-1)
    rows: list[list[str]] = [[] for _ in range(max(height.values()) + 1)]
    for name in sorted(height):
        rows[-1 - height[name]].append(name)
    return rows


def picture(imports: Mapping[str, set[str]]) -> str:
    """Return the drawing as SVG."""
    arrows = reduced(imports)
    rows = levels(imports)
    paths = _routed(rows, arrows)
    _untangle(rows, paths)
    lengths = [sum(_width(name) for name in row) for row in rows]
    width = max(lengths) + _GAP
    place: dict[str, tuple[float, float]] = {}
    for level, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        left = (width - length) / 2
        for name in row:
            place[name] = left + _width(name) / 2, _GAP + level * _ROW
            left += _width(name)
    height = _GAP * 2 + (len(rows) - 1) * _ROW + _HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        "<title>Which package imports which</title>",
        f"<style>{_STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#8a8f98"/></marker></defs>',
    ]
    for path in paths:
        points = [(place[path[0]][0], place[path[0]][1] + _HEIGHT)]
        for x, y in (place[name] for name in path[1:-1]):
            points += [(x, y), (x, y + _HEIGHT)]
        points.append(place[path[-1]])
        drawn = " ".join(f"{x:.0f},{y:.0f}" for x, y in points)
        lines.append(f'<polyline points="{drawn}" marker-end="url(#head)"/>')
    for name in imports:
        (x, y), (root, _, rest) = place[name], name.partition(".")
        lines.append(
            f'<g><title>{escape(_purpose(name))}</title><rect class="{root}" rx="4" '
            f'x="{x - _BOX / 2:.0f}" y="{y:.0f}" width="{_BOX}" height="{_HEIGHT}"/>'
            f'<text x="{x:.0f}" y="{y + 19:.0f}">{escape(_label(root, rest))}</text></g>'
        )
    return "\n".join([*lines, "</svg>", ""])


def _routed(rows: list[list[str]], arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Add to each row a place for the arrows that pass it; return the places of each arrow."""
    level = {name: number for number, row in enumerate(rows) for name in row}
    paths = []
    for importer in sorted(arrows):
        for imported in sorted(arrows[importer]):
            between = range(level[importer] + 1, level[imported])
            passing = [f"{_PASSING}{importer} {imported} {number}" for number in between]
            for number, name in zip(between, passing, strict=True):
                rows[number].append(name)
            paths.append([importer, *passing, imported])
    return paths


def _untangle(rows: list[list[str]], paths: list[list[str]]) -> None:
    """Order each row by the mean place of its neighbours, down and up a few times."""
    links = [pair for path in paths for pair in pairwise(path)]
    above: dict[str, list[str]] = {name: [] for row in rows for name in row}
    below: dict[str, list[str]] = {name: [] for row in rows for name in row}
    for upper, lower in links:
        above[lower].append(upper)
        below[upper].append(lower)
    for near, order in (above, rows), (below, rows[::-1]), (above, rows), (below, rows[::-1]):
        at: dict[str, float] = {}
        for row in order:
            wanted = {
                name: sum(at[each] for each in near[name]) / len(near[name])
                if near[name]
                else (number + 0.5) / len(row)
                for number, name in enumerate(row)
            }
            row.sort(key=lambda name, wanted=wanted: (wanted[name], name))
            at.update({name: (number + 0.5) / len(row) for number, name in enumerate(row)})


def _width(name: str) -> int:
    return _GAP if name.startswith(_PASSING) else _BOX + _GAP


def _label(root: str, rest: str) -> str:
    short = {"ensembled_client": "client"}.get(root, root)
    return f"{short}/{rest.replace('.', '/')}" if rest else short


def _directory(package: str) -> Path:
    base = ROOT / "clients" if package.startswith("ensembled_client") else ROOT
    return base.joinpath(*package.split("."))


def _is_package(name: str) -> bool:
    return (_directory(name) / "__init__.py").exists()


def _has_code(package: str) -> bool:
    return any(path.name != "__init__.py" for path in _directory(package).glob("*.py"))


def _purpose(package: str) -> str:
    text = ast.get_docstring(ast.parse((_directory(package) / "__init__.py").read_text()))
    return (text or package).splitlines()[0]


def _package_of(module: str, packages: set[str]) -> str:
    return module if module in packages else module.rpartition(".")[0]


def main() -> None:
    """Write the drawing."""
    sys.path[:0] = [str(ROOT), str(ROOT / "clients")]
    try:
        SVG.write_text(picture(imports_between_packages()))
    except CycleError as error:
        sys.exit(f"packages import each other: {' -> '.join(error.args[1])}")


if __name__ == "__main__":
    main()
