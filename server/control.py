"""Requests to change what is served, from the front-end or a signal to the supervisor.

Pure. A request flows from a client through the front-end (`Ask`, a line of its status channel) to
the supervisor, which plans and brings up the new deployment, and its result flows back (`Answer`, a
command). Every change is one transaction: it succeeds as a whole, or nothing changes.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = [
    "Answer",
    "Ask",
    "ChangeRequest",
    "ChangeResult",
    "LoadRequest",
    "PlaceRequest",
    "ReloadRequest",
    "RolloutAction",
    "RolloutRequest",
    "UnloadRequest",
]


class ReloadRequest(msgspec.Struct, frozen=True, tag="reload"):
    """Read the configuration again and serve what it says.

    Attributes:
        path: the configuration file that the client means, absolute; empty for the server's own.
        dry_run: whether to say only what would change.
    """

    path: str = ""
    dry_run: bool = False


class LoadRequest(msgspec.Struct, frozen=True, tag="load"):
    """Load a model, or load it again.

    Attributes:
        config: its configuration in place of the file's, a JSON text; empty for the file's.
        directory: where the front-end has put files that the client sent; empty for none.
    """

    model: str
    config: str = ""
    directory: str = ""


class UnloadRequest(msgspec.Struct, frozen=True, tag="unload"):
    """Unload a model, and with `dependents` the members that no other model needs."""

    model: str
    dependents: bool = False


RolloutAction = Literal["promote", "rollback", "percent"]


class RolloutRequest(msgspec.Struct, frozen=True, tag="rollout"):
    """End a roll-out, or change the share of the requests that its version gets."""

    model: str
    action: RolloutAction
    percent: float = 0.0
    reason: str = ""


class PlaceRequest(msgspec.Struct, frozen=True, tag="place"):
    """Serve the same models by another allocation matrix (a JSON text, as allocation files are)."""

    matrix: str
    reason: str = ""
    dry_run: bool = False


ChangeRequest = ReloadRequest | LoadRequest | UnloadRequest | RolloutRequest | PlaceRequest


class ChangeResult(msgspec.Struct, frozen=True):
    """What became of a request.

    Attributes:
        generation: of the deployment that serves now.
        changes: what changes, or would, a line each; none if nothing does.
        error: why nothing was changed, empty if the request succeeded.
        is_wrong: whether the error lies in what the client or the configuration says; else the
            server could not do it.
    """

    generation: int
    changes: tuple[str, ...] = ()
    error: str = ""
    is_wrong: bool = False


class Ask(msgspec.Struct, frozen=True, tag=True):
    """Front-end to supervisor: a client wants a change."""

    id: int
    request: ChangeRequest


class Answer(msgspec.Struct, frozen=True, tag=True):
    """Supervisor to front-end: the result of what it has asked."""

    id: int
    result: ChangeResult
