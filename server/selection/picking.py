"""One point of a selection: its knee, its best one, or one by its number.

Runs in the process of the command line; pure.
"""

from __future__ import annotations

from server.errors import ConfigError
from server.selection.points import Point, Selection

__all__ = ["check_pick", "pick"]


def check_pick(how: str) -> None:
    """Raise a ConfigError for what no selection has."""
    if how not in {"knee", "best"} and not (how.isdecimal() and int(how)):
        raise ConfigError(f"--pick should be knee, best or a number from 1, not {how!r}")


def pick(selection: Selection, how: str) -> Point:
    """Return a point: the ``knee``, the ``best`` quality, or the N-th of the front, from 1.

    Knee and best are those by the rows that were searched on, so that a point's quality on the rows
    that it is judged on is no reason for its choice, and stays an honest estimate.

    Raises:
        ConfigError: if it is none of these, or there are not so many.
    """
    if how == "knee":
        return selection.knee
    if how == "best":
        sign = 1 if selection.higher_is_better else -1
        points = (*selection.front, *selection.dominated)
        return max(points, key=lambda one: (sign * one.selected_quality, one.cost.rows_per_s))
    if how.isdecimal() and 1 <= int(how) <= len(selection.front):
        return selection.front[int(how) - 1]
    raise ConfigError(
        f"--pick should be knee, best or a number from 1 to {len(selection.front)}, not {how!r}"
    )
