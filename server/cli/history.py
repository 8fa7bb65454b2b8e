"""`ensembled history`: what servers of a configuration have served.

Runs in the process of the command line. The database that the supervisor writes flows in; tables or
JSON on stdout flow out.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
from rich.table import Table

from server.cli.application import make_table, stdout_console
from server.config import Config
from server.engine.statistics import BATCH_ROWS, TIMES_S
from server.errors import ConfigError
from server.following.traffic import ModelTraffic, Traffic, total
from server.history.database import find_history, read_windows
from server.history.windows import Window, production, quantile
from server.stdout import echo

__all__ = ["history"]

_HOUR_S = 3600.0
#: Up to so many windows are rows of the table; more are shown by the hour.
_MOST_ROWS = 30


def history(config: Config, *, hours: float, as_json: bool) -> None:
    """Show what servers of a configuration have served in the last hours.

    Raises:
        ConfigError: if no history is kept, or nothing was served, or the database is damaged.
    """
    path = find_history(config)
    if path is None:
        raise ConfigError("server.history: none, so nothing is kept")
    windows = read_windows(path, since=time.time() - hours * _HOUR_S)
    if as_json:
        echo(json.dumps(_document(str(path), windows), allow_nan=False))
        return
    if not windows:
        raise ConfigError(
            f"nothing was served in the last {hours:g} hours (by {path}); "
            "a server writes what it has served once a minute, and when it stops"
        )
    console = stdout_console()
    console.print(_window_table(windows))
    traffic = total(one.traffic for one in windows)
    console.print(_model_table(traffic))
    console.print(_instance_table(traffic, sum(one.seconds for one in windows)))
    load = production(windows)
    console.print(
        f"{load.rows_per_s:.4g} rows/s on average, more than {load.busy_rows_per_s:.4g} in one "
        f"minute of twenty; cascades and early answers spared {load.saved:.1%} of the predictions"
    )


def _window_table(windows: Sequence[Window]) -> Table:
    numbers = ("rows/s", "p50 ms", "p99 ms", "refused", "degraded", "rows spared")
    table = make_table("since", numbers=numbers, title="what was served")
    for group in _groups(windows):
        load = production(group)
        models = load.traffic.models.values()
        answers = _together(load.traffic)
        started = datetime.fromtimestamp(group[0].started)  # in the time of the reader
        table.add_row(
            f"{started:%Y-%m-%d %H:%M}",
            f"{load.rows_per_s:.4g}",
            _ms(quantile(answers, 0.5, TIMES_S)),
            _ms(quantile(answers, 0.99, TIMES_S)),
            str(sum(model.refused for model in models)),
            str(sum(model.degraded for model in models)),
            f"{load.saved:.1%}",
        )
    return table


def _groups(windows: Sequence[Window]) -> Iterator[list[Window]]:
    """The windows one by one, or by the hour if they are many."""
    if len(windows) <= _MOST_ROWS:
        yield from ([one] for one in windows)
        return
    hours: dict[int, list[Window]] = {}
    for one in windows:
        hours.setdefault(int(one.started // _HOUR_S), []).append(one)
    yield from hours.values()


def _model_table(traffic: Traffic) -> Table:
    numbers = ("requests", "rows", "share", "p50 ms", "p99 ms", "refused", "degraded")
    table = make_table("model", numbers=(*numbers, "ended by stage"), title="by model")
    for name, model in traffic.models.items():
        ended = sum(model.ended)
        table.add_row(
            name,
            str(model.requests),
            str(model.rows),
            f"{model.rows / max(traffic.rows, 1):.1%}",
            _ms(quantile(model, 0.5, TIMES_S)),
            _ms(quantile(model, 0.99, TIMES_S)),
            str(model.refused),
            str(model.degraded),
            " ".join(f"{count / ended:.0%}" for count in model.ended) if ended else "-",
        )
    return table


def _instance_table(traffic: Traffic, seconds: float) -> Table:
    numbers = ("batches", "rows/batch", "ms/batch", "busy")
    table = make_table("device", "member", numbers=numbers, title="by instance")
    for device, instances in traffic.instances.items():
        for member, one in instances.items():
            table.add_row(
                device,
                member,
                str(one.batches),
                f"{one.rows / max(one.batches, 1):.3g}",
                f"{1e3 * one.seconds / max(one.batches, 1):.4g}",
                f"{one.seconds / seconds:.1%}",
            )
    return table


def _together(traffic: Traffic) -> ModelTraffic:
    """The answers of all models as if they were of one."""
    return total(Traffic(0, 0.0, {"": model}) for model in traffic.models.values()).models.get(
        "", ModelTraffic()
    )


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"> {TIMES_S[-1] * 1e3:g}" if math.isinf(seconds) else f"{seconds * 1e3:.3g}"


def _document(path: str, windows: Sequence[Window]) -> dict[str, Any]:
    """All there is, for programs."""
    return {
        "database": path,
        "times_s": TIMES_S,
        "batch_rows": BATCH_ROWS,
        "windows": [
            {
                "started": one.started,
                "seconds": one.seconds,
                "generation": one.traffic.generation,
                "rows_per_s": one.rows_per_s,
                "models": {
                    name: msgspec.structs.asdict(model)
                    for name, model in one.traffic.models.items()
                },
                "instances": [
                    {
                        "device": device,
                        "kind": one.kinds.get(device),
                        "member": member,
                        **msgspec.structs.asdict(seen),
                    }
                    for device, instances in one.traffic.instances.items()
                    for member, seen in instances.items()
                ],
            }
            for one in windows
        ],
    }
