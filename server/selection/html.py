"""The report of a selection: one HTML file that stands alone.

Runs in the process of the command line; a selection flows in, text flows out. Tables, and the
drawing as SVG, are in the file; it loads nothing. Needs jinja2 and matplotlib, an extra (`plot`).
"""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from allocator.problem import readable_bytes
from server.selection.picking import pick
from server.selection.pipeline import LibrarySelection
from server.selection.plot import selection_svg
from server.selection.points import Point

__all__ = ["html_report"]

_TEMPLATE = "report.html"


def html_report(found: LibrarySelection, picked: Point | None = None) -> str:
    """Return the report as text; names and reasons are escaped."""
    environment = Environment(
        loader=PackageLoader("server.selection", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["bytes"] = readable_bytes
    environment.globals["zip"] = zip
    selection = found.selection
    marks = {"knee": selection.knee, "best": pick(selection, "best"), "picked": picked}
    return environment.get_template(_TEMPLATE).render(
        library=found.library.path.name,
        data=found.request.data.name,
        selection=selection,
        devices=found.problem.devices,
        marks=marks,
        drawing=Markup(selection_svg(selection, picked)),
    )
