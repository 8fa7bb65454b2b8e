"""`ensembled predict`: ask a running server, and show what it says to a person.

Runs in the process of the command line. Files flow in, one request each (images together) goes to
the server through its Python client, tables or JSON flow out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ensembled_client import (
    EnsembleClient,
    EnsembledClientError,
    Prediction,
    RequestRejected,
    UnknownModel,
)

from server.cli.output import stdout_console
from server.cli.predict_tables import show
from server.errors import ConfigError, EnsembledError
from server.stdout import echo

__all__ = ["Question", "predict"]

_ARRAYS = {".npy", ".npz", ".json"}


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        ensemble: or a member by itself.
        inputs: files, images or arrays.
        url: of the server.
        top: how many classes to show of each row.
        members: only these, None for all.
        quorum: the fewest members that an answer may rest on, None for the ensemble's own.
        timeout_s: until the answer must be there, None for the ensemble's own.
        access: the client's options about keys and certificates.
    """

    ensemble: str
    inputs: Sequence[str]
    url: str
    top: int = 5
    members: Sequence[str] | None = None
    quorum: int | None = None
    timeout_s: float | None = None
    access: Mapping[str, Any] = field(default_factory=dict, repr=False)


def predict(question: Question, *, as_json: bool) -> None:
    """Ask, and print what comes back.

    Raises:
        ConfigError: if a file can't be used, or the server refuses the request.
        EnsembledError: if the server gives no answer.
    """
    try:
        client = EnsembleClient(question.url, **question.access)
    except EnsembledClientError as error:
        raise ConfigError(error.message) from None
    try:
        with client:
            whole = _is_ensemble(client.config(question.ensemble), question.ensemble)
            answers = [
                (names, _ask(client, question, x, whole)) for names, x in _read(question.inputs)
            ]
    except (RequestRejected, UnknownModel) as error:
        raise ConfigError(error.message) from None
    except EnsembledClientError as error:
        raise EnsembledError(f"{question.url}: {error.message}") from None
    if as_json:
        documents = [_document(names, answer, question.top) for names, answer in answers]
        rows = [row for document in documents for row in document]
        echo(json.dumps({"ensemble": question.ensemble, "rows": rows}))
        return
    console = stdout_console()
    for names, answer in answers:
        show(console, names, answer, question.top)


def _is_ensemble(config: dict[str, Any], name: str) -> bool:
    """Whether a model has members other than itself; gRPC has no field for them but parameters."""
    if "ensemble" in config:
        return bool(config["ensemble"]["members"] != [name])
    return bool(config["parameters"]["members"]["string_value"] != name)


def _ask(client: EnsembleClient, question: Question, x: Any, whole: bool) -> Prediction:
    return client.predict(
        question.ensemble,
        x,
        timeout=question.timeout_s,
        members=question.members,
        quorum=question.quorum,
        uncertainty=whole,
        member_outputs=whole,
    )


def _read(inputs: Sequence[str]) -> Iterator[tuple[list[str], Any]]:
    """What to ask: the names of its rows (or of the file that holds them), and the input."""
    images = [name for name in inputs if Path(name).suffix.lower() not in _ARRAYS]
    for name in inputs:
        if not Path(name).is_file():
            raise ConfigError(f"there is no file {name}")
    if images:
        yield images, images
    for name in inputs:
        if name not in images:
            try:
                yield [name], _load(Path(name))
            except (OSError, ValueError) as error:
                raise ConfigError(f"{name}: {error}") from None


def _load(path: Path) -> Any:
    """An array, or arrays by input name; nothing in the file is executed."""
    if path.suffix.lower() == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    loaded = np.load(path, allow_pickle=False)
    return {name: loaded[name] for name in loaded.files} if hasattr(loaded, "files") else loaded


def _document(names: list[str], answer: Prediction, top: int) -> list[dict[str, Any]]:
    """Each row as JSON has it; a number that is none is null."""
    rows: list[dict[str, Any]] = []
    for row, values in enumerate(answer.values):
        document: dict[str, Any] = {
            "input": names[row] if len(names) == len(answer) else f"{names[0]}[{row}]",
            "members": list(answer.members),
            "degraded": answer.degraded,
            "values": _numbers(values),
            "uncertainty": {
                name: float(scores[row]) for name, scores in answer.uncertainty.items()
            },
            "member_values": {
                name: _numbers(own[row]) for name, own in answer.member_values.items()
            },
        }
        if answer.class_names:
            best = answer.top(top)[row]
            document["top"] = [{"label": label, "value": value} for label, value in best]
        rows.append(document)
    return rows


def _numbers(values: Any) -> Any:
    array = np.asarray(values)
    numbers = array.astype(object)
    numbers[~np.isfinite(array)] = None
    return numbers.tolist()
