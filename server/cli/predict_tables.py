"""The tables of `ensembled predict`: classes or values, and how much the members agree.

Runs in the process of the command line; predictions flow in, tables flow out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ensembled_client import Prediction
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["show"]

_BAR = 12
#: More rows than this are shown a line each.
_DETAILED_ROWS = 4
_MAX_VALUES = 20


def show(console: Console, names: list[str], answer: Prediction, top: int) -> None:
    """Print the answer to one request.

    Args:
        console: where to.
        names: of the rows; or of the one file that holds them all.
        answer: with uncertainty and the members' own predictions, as far as there are any.
        top: how many classes to show of each row.
    """
    rows = len(answer)
    if len(names) < rows or len(names) > rows:
        names = [f"{names[0]}[{row}]" for row in range(rows)]
    console.print(_who(answer))
    if rows > _DETAILED_ROWS:
        console.print(_summary(names, answer))
        return
    for row, name in enumerate(names):
        if _is_of_classes(answer):
            console.print(_class_table(name, answer, row, top))
            if answer.member_values:
                console.print(_agreement(answer, row))
        else:
            console.print(_value_table(name, answer, row))


def _who(answer: Prediction) -> str:
    """Which members answered, and how long it took."""
    several = len(answer.members) > 1
    text = f"{'members' if several else 'member'} {', '.join(answer.members)}"
    degraded = " (degraded: not all that were asked)" if answer.degraded else ""
    return f"{text}{degraded}, {answer.timing.total_s * 1000:.0f} ms"


def _is_of_classes(answer: Prediction) -> bool:
    """Whether the values are probabilities of classes."""
    if answer.class_names or "entropy" in answer.uncertainty:
        return True
    values = answer.values
    is_table = values.ndim == 2 and values.shape[1] > 1
    return bool(is_table and (values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-3))


def _class_table(name: str, answer: Prediction, row: int, top: int) -> Table:
    table = Table(title=name, title_justify="left")
    table.add_column("class")
    table.add_column("probability", no_wrap=True)
    for member in answer.member_values:
        table.add_column(member, justify="right")
    values = answer.values[row]
    order = np.argsort(-values, kind="stable")[:top]
    for index, (label, value) in zip(order, answer.top(top)[row], strict=True):
        bar = "█" * round(_BAR * min(max(value, 0.0), 1.0))
        own = [_percent(member[row][index]) for member in answer.member_values.values()]
        table.add_row(label, f"{bar:<{_BAR}} {value:6.1%}", *own)
    return table


def _agreement(answer: Prediction, row: int) -> str:
    """How much the members agree on a row, in a sentence."""
    present = {
        name: values[row]
        for name, values in answer.member_values.items()
        if np.isfinite(values[row]).all()
    }
    winner = int(answer.values[row].argmax())
    dissent = {name: int(own.argmax()) for name, own in present.items()}
    dissent = {name: index for name, index in dissent.items() if index != winner}
    lines = [
        f"{len(present) - len(dissent)} of {len(present)} members say {_label(answer, winner)}"
    ]
    lines += [
        f"{name} says {_label(answer, index)} ({_percent(present[name][index]).strip()})"
        for name, index in dissent.items()
    ]
    if "entropy" in answer.uncertainty:
        doubt, between = (
            float(answer.uncertainty[name][row]) for name in ("entropy", "mutual_information")
        )
        lines.append(f"entropy {doubt:.2f} nats, of which {between:.2f} between the members")
    return "; ".join(lines)


def _summary(names: list[str], answer: Prediction) -> Table:
    """A line per row."""
    table = Table()
    for title in ("input", "answer"):
        table.add_column(title)
    for title in (*answer.uncertainty,):
        table.add_column(title.replace("_", " "), justify="right")
    of_classes = _is_of_classes(answer)
    best = answer.top(1) if of_classes else []
    for row, name in enumerate(names):
        if of_classes:
            label, value = best[row][0]
            said = f"{label} {value:.1%}"
        else:
            said = _text(answer.values[row])
        scores = [f"{values[row]:.3f}" for values in answer.uncertainty.values()]
        table.add_row(name, said, *scores)
    return table


def _value_table(name: str, answer: Prediction, row: int) -> Table:
    table = Table(title=name, title_justify="left")
    table.add_column("output")
    table.add_column("value", justify="right")
    for member in answer.member_values:
        table.add_column(member, justify="right")
    flat = answer.values[row].reshape(-1)
    own = [values[row].reshape(-1) for values in answer.member_values.values()]
    for index, value in enumerate(flat[:_MAX_VALUES]):
        table.add_row(str(index), f"{value:.6g}", *(f"{one[index]:.6g}" for one in own))
    if len(flat) > _MAX_VALUES:
        table.add_row("...", f"{len(flat) - _MAX_VALUES} more")
    return table


def _label(answer: Prediction, index: int) -> str:
    return answer.class_names[index] if answer.class_names else f"class {index}"


def _percent(value: Any) -> str:
    return f"{value:.1%}" if np.isfinite(value) else "-"


def _text(values: Any) -> str:
    flat = np.asarray(values).reshape(-1)
    shown = ", ".join(f"{value:.4g}" for value in flat[:4])
    return f"{shown}, ..." if len(flat) > 4 else shown
