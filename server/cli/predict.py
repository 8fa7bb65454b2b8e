"""`ensembled predict`: asks a running server, and prints its predictions.

Runs in the process of the command line. Files flow in, one request each (images together) goes to
the server through its Python client; tables or JSON flow out: classes or values, and how much the
members agree.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from ensembled_client import (
    EnsembleClient,
    EnsembledClientError,
    Prediction,
    RequestRejected,
    UnknownModel,
)
from ensembled_client.wire import SCORES
from rich.console import Console
from rich.table import Table

from server.cli.application import make_table, stdout_console
from server.errors import ConfigError, EnsembledError
from server.stdout import echo
from server.versions import split_name

__all__ = ["predict"]

_ARRAY_SUFFIXES = {".npy", ".npz", ".json"}
_IMAGE = "image"
_BAR_WIDTH = 12
#: More rows than this are shown a line each.
_MAX_DETAILED_ROWS = 4
_MAX_VALUES = 20
_NAME_CHARS = 60
_SET, _INTERVAL = "prediction_set", "interval"
#: Beside the boxes, what an ensemble of detectors gives.
_BOX_OUTPUTS = ("scores", "classes", "count")


def predict(
    ensemble: str,
    inputs: Sequence[str],
    *,
    data: str | None = None,
    url: str,
    credentials: Mapping[str, Any],
    top: int,
    as_json: bool,
    coverage: float | None = None,
    **options: Any,
) -> None:
    """Send files, or rows as JSON, to a server and print its predictions on stdout.

    `credentials` and `options` are those of the client and its `predict`; with a `coverage`,
    intervals or sets of classes are asked for, too.

    Raises:
        ConfigError: if a file can't be used, or the server rejects the request.
        EnsembledError: if the server gives no answer.
    """
    if (data is None) == (not inputs):
        raise ConfigError("give files, or --data with rows")
    try:
        client = EnsembleClient(url, **credentials)
    except EnsembledClientError as error:
        raise ConfigError(error.message) from None
    name, version = split_name(ensemble)
    try:
        with client:
            config = client.config(name, version)
            several = _has_members(config, name)
            extras = _extra_outputs(config)
            scores = [name for name in SCORES if name in extras]
            options |= {"uncertainty": scores if several else False, "member_outputs": several}
            if coverage is not None:
                covering = _SET if _SET in extras else _INTERVAL
                options |= {"outputs": [covering], "coverage": coverage}
            takes = [one["name"] for one in client.metadata(name, version)["inputs"]]
            read = _read_together if _IMAGE in takes[:-1] or _IMAGE in takes[1:] else _read
            requests = read(inputs) if data is None else [_parse(data)]
            options["version"] = version
            answers = [(names, client.predict(name, x, **options)) for names, x in requests]
    except (RequestRejected, UnknownModel) as error:
        raise ConfigError(error.message) from None
    except EnsembledClientError as error:
        raise EnsembledError(f"{url}: {error.message}") from None
    if as_json:
        rows = [row for names, answer in answers for row in _documents(names, answer, top)]
        document = {"ensemble": ensemble, "rows": rows}
        option = orjson.OPT_SERIALIZE_NUMPY
        echo(orjson.dumps(document, np.ndarray.tolist, option).decode())
        return
    console = stdout_console()
    for names, answer in answers:
        _print_answer(console, names, answer, top)


def _has_members(config: Mapping[str, Any], name: str) -> bool:
    """Whether a model has members other than itself; gRPC has no field for them but parameters."""
    if "ensemble" in config:
        return bool(config["ensemble"]["members"] != [name])
    return bool(config["parameters"]["members"]["string_value"] != name)


def _extra_outputs(config: Mapping[str, Any]) -> list[str]:
    """The outputs that a model has on request."""
    if "ensemble" in config:
        return [output["name"] for output in config["ensemble"]["extra_outputs"]]
    parameter = config["parameters"].get("extra_outputs", {"string_value": ""})
    return str(parameter["string_value"]).split(",")


def _parse(data: str) -> tuple[list[str], Any]:
    """The request of rows as JSON: their names, which are the texts if they are texts."""
    try:
        x = json.loads(data)
    except ValueError as error:
        raise ConfigError(f"--data: is not JSON: {error}") from None
    if isinstance(x, list) and x and all(isinstance(row, str) for row in x):
        return [textwrap.shorten(row, _NAME_CHARS, placeholder="...") for row in x], x
    return ["data"], x


def _read(inputs: Sequence[str]) -> Iterator[tuple[list[str], Any]]:
    """Each request: the names of its rows (or of the file that holds them), and the input."""
    images, arrays = _split(inputs)
    if images:
        yield images, images
    for name in arrays:
        yield [name], _load(name)


def _read_together(inputs: Sequence[str]) -> Iterator[tuple[list[str], Any]]:
    """The one request of a model that takes an image beside other inputs."""
    images, arrays = _split(inputs)
    x: dict[str, Any] = {_IMAGE: images} if images else {}
    for name in arrays:
        loaded = _load(name)
        if not isinstance(loaded, Mapping):
            raise ConfigError(f"{name}: the model has several inputs, give them by name (.npz)")
        x |= loaded
    yield images or arrays, x


def _split(inputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files that are images, and those of arrays."""
    for name in inputs:
        if not Path(name).is_file():
            raise ConfigError(f"there is no file {name}")
    images = [name for name in inputs if Path(name).suffix.lower() not in _ARRAY_SUFFIXES]
    return images, [name for name in inputs if name not in images]


def _load(name: str) -> Any:
    """An array, or arrays by input name; nothing in the file is executed."""
    path = Path(name)
    try:
        if path.suffix.lower() == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        loaded = np.load(path, allow_pickle=False)
        return {one: loaded[one] for one in loaded.files} if hasattr(loaded, "files") else loaded
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name}: {error}") from None


def _row_names(names: Sequence[str], rows: int) -> Sequence[str]:
    """The names of rows, which may all be of one file."""
    return names if len(names) == rows else [f"{names[0]}[{row}]" for row in range(rows)]


def _documents(names: Sequence[str], answer: Prediction, top: int) -> Iterator[dict[str, Any]]:
    """Each row as a document that orjson can encode; numbers that are not finite become null."""
    for row, name in enumerate(_row_names(names, len(answer))):
        document: dict[str, Any] = {
            "input": name,
            "members": list(answer.members),
            "degraded": answer.degraded,
            **({"variants": answer.variants} if answer.variants else {}),
            "values": answer.values[row],
            "uncertainty": {score: values[row] for score, values in answer.uncertainty.items()},
            "member_values": {name: values[row] for name, values in answer.member_values.items()},
            **{
                name: answer.outputs[name][row]
                for name in (_SET, _INTERVAL, *_BOX_OUTPUTS)
                if name in answer.outputs
            },
        }
        if answer.class_names:
            best = answer.top(top)[row]
            document["top"] = [{"label": label, "value": value} for label, value in best]
        yield document


def _print_answer(console: Console, names: Sequence[str], answer: Prediction, top: int) -> None:
    """Print the answer to one request: a table per row, or a line if they are many."""
    names = _row_names(names, len(answer))
    console.print(_provenance(answer))
    if len(answer) > _MAX_DETAILED_ROWS:
        console.print(_summary_table(names, answer))
        return
    for row, name in enumerate(names):
        if _is_detection(answer):
            console.print(_box_table(name, answer, row))
        elif _is_classification(answer):
            console.print(_class_table(name, answer, row, top))
            if answer.member_values:
                console.print(_agreement(answer, row))
        else:
            console.print(_value_table(name, answer, row))


def _provenance(answer: Prediction) -> str:
    """Which members answered, and how long it took."""
    several = len(answer.members) > 1
    text = f"{'members' if several else 'member'} {', '.join(answer.members)}"
    degraded = " (degraded: some members are missing)" if answer.degraded else ""
    for member, variants in answer.variants.items():
        text += "".join(f", {member} as {one} on {kind}" for kind, one in variants.items())
    return f"{text}{degraded}, {answer.timing.total_s * 1000:.0f} ms"


def _is_classification(answer: Prediction) -> bool:
    """Whether the values are probabilities of classes."""
    if answer.class_names or "entropy" in answer.uncertainty:
        return True
    values = answer.values
    is_table = values.ndim == 2 and values.shape[1] > 1
    return bool(is_table and (values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-3))


def _is_detection(answer: Prediction) -> bool:
    """Whether the values are boxes."""
    return all(name in answer.outputs for name in _BOX_OUTPUTS)


def _box_table(name: str, answer: Prediction, row: int) -> Table:
    """The boxes of a row, best first."""
    scores, classes, count = (answer.outputs[name][row] for name in _BOX_OUTPUTS)
    table = make_table("class", numbers=["score", "x1", "y1", "x2", "y2"], title=name)
    shown = min(int(count), _MAX_VALUES)
    for index in range(shown):
        corners = [f"{value:.6g}" for value in answer.values[row][index]]
        table.add_row(str(classes[index]), f"{scores[index]:.3f}", *corners)
    if count > shown:
        table.add_row("...", f"{count - shown} more")
    return table


def _class_table(name: str, answer: Prediction, row: int, top: int) -> Table:
    chosen = answer.outputs.get(_SET)
    texts = ["class", "probability", *([] if chosen is None else ["in the set"])]
    table = make_table(*texts, numbers=list(answer.member_values), title=name)
    table.columns[1].no_wrap = True
    values = answer.values[row]
    order = np.argsort(-values, kind="stable")[:top]
    for index, (label, value) in zip(order, answer.top(top)[row], strict=True):
        bar = "█" * round(_BAR_WIDTH * min(max(value, 0.0), 1.0))
        own = [_percent(member[row][index]) for member in answer.member_values.values()]
        mark = [] if chosen is None else ["yes" if chosen[row][index] else ""]
        table.add_row(label, f"{bar:<{_BAR_WIDTH}} {value:6.1%}", *mark, *own)
    return table


def _agreement(answer: Prediction, row: int) -> str:
    """How much the members agree on a row, in a sentence."""
    present = {
        name: values[row]
        for name, values in answer.member_values.items()
        if np.isfinite(values[row]).all()
    }
    winner = int(answer.values[row].argmax())
    votes = {name: int(own.argmax()) for name, own in present.items()}
    dissent = {name: index for name, index in votes.items() if index != winner}
    lines = [
        f"{len(present) - len(dissent)} of {len(present)} members say {_label(answer, winner)}"
    ]
    lines += [
        f"{name} says {_label(answer, index)} ({_percent(present[name][index])})"
        for name, index in dissent.items()
    ]
    if "entropy" in answer.uncertainty:
        total, between = (
            float(answer.uncertainty[name][row]) for name in ("entropy", "mutual_information")
        )
        lines.append(f"entropy {total:.2f} nats, of which {between:.2f} between the members")
    return "; ".join(lines)


def _summary_table(names: Sequence[str], answer: Prediction) -> Table:
    """A line per row."""
    scores = [title.replace("_", " ") for title in answer.uncertainty]
    table = make_table("input", "answer", numbers=scores)
    is_detection = _is_detection(answer)
    best = answer.top(1) if not is_detection and _is_classification(answer) else None
    for row, name in enumerate(names):
        if is_detection:
            text = f"{answer.outputs['count'][row]} boxes"
        elif best is not None:
            label, value = best[row][0]
            text = f"{label} {value:.1%}"
        else:
            flat = answer.values[row].reshape(-1)
            text = ", ".join(f"{value:.4g}" for value in flat[:4]) + ", ..." * (len(flat) > 4)
        scores = [f"{float(np.mean(values[row])):.3f}" for values in answer.uncertainty.values()]
        table.add_row(name, text, *scores)
    return table


def _value_table(name: str, answer: Prediction, row: int) -> Table:
    flat = answer.values[row].reshape(-1)
    columns = {"value": [f"{value:.6g}" for value in flat]}
    for score, values in answer.uncertainty.items():
        if score in {"aleatoric", "epistemic"}:
            columns[score] = [f"{value:.4g}" for value in values[row].reshape(-1)]
    if _INTERVAL in answer.outputs:
        bounds = answer.outputs[_INTERVAL][row].reshape(-1, 2)
        columns[_INTERVAL] = [f"{low:.4g} to {high:.4g}" for low, high in bounds]
    for member, values in answer.member_values.items():
        columns[member] = _own_values(answer, values[row])
    table = make_table("output", numbers=list(columns), title=name)
    # Of quantiles there are more values than intervals.
    for index in range(min(len(flat), _MAX_VALUES)):
        cells = [column[index] if index < len(column) else "" for column in columns.values()]
        table.add_row(str(index), *cells)
    if len(flat) > _MAX_VALUES:
        table.add_row("...", f"{len(flat) - _MAX_VALUES} more")
    return table


def _own_values(answer: Prediction, values: npt.NDArray[Any]) -> list[str]:
    """A member's values, or its means with their standard deviations."""
    if "aleatoric" not in answer.uncertainty:
        return [f"{value:.6g}" for value in values.reshape(-1)]
    pairs = values.reshape(-1, 2)
    return [f"{mean:.6g} ± {math.sqrt(variance):.3g}" for mean, variance in pairs]


def _label(answer: Prediction, index: int) -> str:
    return answer.class_names[index] if answer.class_names else f"class {index}"


def _percent(value: Any) -> str:
    return f"{value:.1%}" if np.isfinite(value) else "-"
