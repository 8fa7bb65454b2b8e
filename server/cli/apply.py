"""`ensembled apply`, `rollout`, `allocate --apply`: have a server change what it serves.

Run in the process of the command line. What is wanted goes to the server (of a configuration the
path, which the server refuses if it is not its own); what changes flows out, a line each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ensembled_client import (
    Change,
    EnsembleClient,
    EnsembledClientError,
    RequestRejected,
    UnknownModel,
)

from allocator.matrix import AllocationMatrix
from server.control import RolloutAction
from server.errors import ConfigError, EnsembledError
from server.stdout import echo

__all__ = ["apply", "apply_allocation", "change_rollout"]


def apply(config: Path, *, url: str, credentials: Mapping[str, Any], dry_run: bool) -> None:
    """Have a server go to what its configuration says now, and print what has changed on stdout.

    `credentials` are those of the client.

    Raises:
        ConfigError: if the server refuses it.
        EnsembledError: if the server can't be reached, or does not say what came of it.
    """
    with _client(url, credentials) as client:
        try:
            change = client.reload(config.absolute(), dry_run=dry_run)
        except UnknownModel:
            raise ConfigError(f"{url}: the server can't change what it serves") from None
    _print(change, "goes on (--dry-run)" if dry_run else "is served")


def apply_allocation(
    matrix: AllocationMatrix, *, url: str, credentials: Mapping[str, Any], dry_run: bool
) -> None:
    """Have a server use an allocation, and print what has changed on stdout.

    `credentials` and what is raised are those of `apply`.
    """
    with _client(url, credentials) as client:
        change = client.place(matrix.to_json(), dry_run=dry_run)
    _print(change, "goes on (--dry-run)" if dry_run else "is served")


def change_rollout(
    model: str,
    action: RolloutAction,
    percent: float | None,
    *,
    url: str,
    credentials: Mapping[str, Any],
) -> None:
    """Have a server end a model's roll-out or change its share, and print what has changed.

    `credentials` and what is raised are those of `apply`.
    """
    if (action == "percent") != (percent is not None):
        raise ConfigError("percent takes the new share, `percent 20`; promote and rollback none")
    with _client(url, credentials) as client:
        change = client.rollout(model, action, percent)
    _print(change, "is served")


@contextmanager
def _client(url: str, credentials: Mapping[str, Any]) -> Iterator[EnsembleClient]:
    """A client, whose errors become those of the command line."""
    try:
        client = EnsembleClient(url, **credentials)
    except EnsembledClientError as error:
        raise ConfigError(error.message) from None
    try:
        with client:
            yield client
    except (RequestRejected, UnknownModel) as error:
        raise ConfigError(error.message) from None
    except EnsembledClientError as error:
        raise EnsembledError(f"{url}: {error.message}") from None


def _print(change: Change, state: str) -> None:
    for line in change.changes:
        echo(line)
    if not change.changes:
        echo("nothing changes")
    echo(f"generation {change.generation} {state}")
