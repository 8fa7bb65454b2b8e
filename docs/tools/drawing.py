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
_WIDTH, _HEIGHT, _GAP, _ROW = 132, 30, 14, 84
_STYLE = """
  text { font: 12px system-ui, sans-serif; text-anchor: middle; fill: #222 }
  line { stroke: #8a8f98; stroke-width: 1 }
  rect { stroke-width: 1; stroke: #0003 }
  .server { fill: #dbe7fb } .allocator { fill: #e4f3dc }
  .workers { fill: #fbe9d2 } .ensembled_client { fill: #ecdff5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #eee } line { stroke: #777d87 }
    .server { fill: #24406b } .allocator { fill: #2f5420 }
    .workers { fill: #6b4717 } .ensembled_client { fill: #4f3066 }
  }
"""


def imports_between_packages() -> dict[str, set[str]]:
    """Return which package imports which; modules outside a package count as their root."""
    graph = grimp.build_graph(*ROOTS, cache_dir=None)
    packages = {name for name in graph.modules if _is_package(name)}
    imports: dict[str, set[str]] = {name: set() for name in packages}
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
    rows = _untangled(levels(imports), arrows)
    width = max(map(len, rows)) * (_WIDTH + _GAP) + _GAP
    place = {
        name: (
            width / 2 + (column - (len(row) - 1) / 2) * (_WIDTH + _GAP),
            _GAP + level * _ROW,
        )
        for level, row in enumerate(rows)
        for column, name in enumerate(row)
    }
    height = _GAP * 2 + (len(rows) - 1) * _ROW + _HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        "<title>Which package imports which</title>",
        f"<style>{_STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#8a8f98"/></marker></defs>',
    ]
    for importer in sorted(arrows):
        for imported in sorted(arrows[importer]):
            (x1, y1), (x2, y2) = place[importer], place[imported]
            lines.append(
                f'<line x1="{x1:.0f}" y1="{y1 + _HEIGHT:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" '
                'marker-end="url(#head)"/>'
            )
    for name, (x, y) in place.items():
        root, _, rest = name.partition(".")
        lines.append(
            f'<g><title>{escape(_purpose(name))}</title><rect class="{root}" rx="4" '
            f'x="{x - _WIDTH / 2:.0f}" y="{y:.0f}" width="{_WIDTH}" height="{_HEIGHT}"/>'
            f'<text x="{x:.0f}" y="{y + 19:.0f}">{escape(_label(root, rest))}</text></g>'
        )
    return "\n".join([*lines, "</svg>", ""])


def _untangled(rows: list[list[str]], arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Order each row by where its neighbours in the row above are."""
    for above, below in pairwise(rows):
        centre = {name: column - (len(above) - 1) / 2 for column, name in enumerate(above)}

        def wanted(name: str, centre: Mapping[str, float] = centre) -> tuple[float, str]:
            columns = [centre[each] for each in centre if name in arrows.get(each, ())]
            return (sum(columns) / len(columns) if columns else 0.0, name)

        below.sort(key=wanted)
    return rows


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
