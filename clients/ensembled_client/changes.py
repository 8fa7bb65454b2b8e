"""Changes of what a server serves: what is asked for, and what came of it. Pure."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from ensembled_client.errors import RequestRejected, ServerFailure

__all__ = [
    "Change",
    "ChangeCall",
    "ChangeOptions",
    "RolloutAction",
    "load_call",
    "place_call",
    "reload_call",
    "rollout_call",
    "unload_call",
]

RolloutAction = Literal["promote", "rollback", "percent"]

_FILE = "file:"


class ChangeOptions(TypedDict, total=False):
    """How long to wait for a change; see `EnsembleClient.load_model`."""

    timeout: float | None


@dataclass(frozen=True)
class Change:
    """What a server has changed, or would change.

    Attributes:
        generation: the number of the deployment that is served now; it grows with every change.
        changes: a line for each; empty if there was nothing to change.
    """

    generation: int
    changes: tuple[str, ...] = ()

    @classmethod
    def of(cls, document: Any) -> Change:
        """Parse a server's answer; ServerFailure if it can't be understood."""
        try:
            return cls(int(document["generation"]), tuple(map(str, document["changes"])))
        except (KeyError, TypeError, ValueError) as error:
            raise ServerFailure(f"the server's answer can't be understood: {error!r}") from error


@dataclass(frozen=True)
class ChangeCall:
    """A change that is asked for; bytes among the parameters are contents of files."""

    kind: Literal["load", "unload", "reload", "place", "rollout"]
    model: str = ""
    parameters: Mapping[str, str | bytes | bool | float] = field(default_factory=dict)


def load_call(
    model: str, config: str | Mapping[str, Any] | None, files: Mapping[str, bytes] | None
) -> ChangeCall:
    """Return the call that loads a model; RequestRejected for a file without the prefix."""
    parameters: dict[str, str | bytes | bool] = {}
    if config is not None:
        parameters["config"] = config if isinstance(config, str) else json.dumps(config)
    for name, content in (files or {}).items():
        if not name.startswith(_FILE):
            raise RequestRejected(f"files are named like file:1/model.onnx, not {name!r}")
        parameters[name] = bytes(content)
    return ChangeCall("load", model, parameters)


def unload_call(model: str, *, dependents: bool) -> ChangeCall:
    """Return the call that unloads a model."""
    return ChangeCall("unload", model, {"unload_dependents": dependents})


def reload_call(path: str | os.PathLike[str], *, dry_run: bool) -> ChangeCall:
    """Return the call that has the server read its configuration again."""
    return ChangeCall("reload", "", {"path": os.fspath(path), "dry_run": dry_run})


def place_call(allocation: str, *, dry_run: bool) -> ChangeCall:
    """Return the call that has the server use an allocation; RequestRejected if it is not JSON."""
    try:
        json.loads(allocation)
    except ValueError as error:
        raise RequestRejected(f"the allocation is not JSON: {error}") from None
    return ChangeCall("place", "", {"allocation": allocation, "dry_run": dry_run})


def rollout_call(model: str, action: RolloutAction, percent: float | None) -> ChangeCall:
    """Return the call that changes a model's roll-out."""
    if percent is None:
        return ChangeCall("rollout", model, {"action": action})
    return ChangeCall("rollout", model, {"action": action, "percent": percent})
