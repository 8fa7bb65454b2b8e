"""`ensembled apply`: has a running server read its configuration again, and waits for the outcome.

Runs in the process of the command line. The path of the configuration goes to the server, which
refuses if it is not its own; what changes flows out, a line each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensembled_client import EnsembleClient, EnsembledClientError, RequestRejected, UnknownModel

from server.errors import ConfigError, EnsembledError
from server.stdout import echo

__all__ = ["apply"]


def apply(config: Path, *, url: str, credentials: Mapping[str, Any], dry_run: bool) -> None:
    """Have a server go to what its configuration says now, and print what has changed on stdout.

    `credentials` are those of the client.

    Raises:
        ConfigError: if the server refuses it.
        EnsembledError: if the server can't be reached, or does not say what came of it.
    """
    try:
        client = EnsembleClient(url, **credentials)
    except EnsembledClientError as error:
        raise ConfigError(error.message) from None
    try:
        with client:
            change = client.reload(config.absolute(), dry_run=dry_run)
    except UnknownModel:
        raise ConfigError(f"{url}: the server can't change what it serves") from None
    except RequestRejected as error:
        raise ConfigError(error.message) from None
    except EnsembledClientError as error:
        raise EnsembledError(f"{url}: {error.message}") from None
    for line in change.changes:
        echo(line)
    if not change.changes:
        echo("nothing changes")
    generation = f"generation {change.generation}"
    echo(f"{generation} goes on (--dry-run)" if dry_run else f"{generation} is served")
