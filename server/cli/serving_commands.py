"""Commands about a server: `serve`, `check`, `apply`, `rollout`, `history`, `health` and `key`.

Runs in the process of the command line. Arguments flow in, the modules of the commands do the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from server.cli.application import errors_as_lines
from server.cli.arguments import (
    LOCAL_URL,
    AdminKey,
    AsJson,
    Certificate,
    CertificateKey,
    ConfigPath,
    Debug,
    RootCertificates,
    ServerUrl,
    credentials_of,
    file_option,
    load,
)
from server.errors import ConfigError
from server.stdout import echo

if TYPE_CHECKING:
    from server.config import Config

__all__ = ["commands"]

commands = typer.Typer()

Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 chooses a free one.")]


class KeyScope(StrEnum):
    """What an API key permits."""

    INFER = auto()
    ADMIN = auto()
    URGENT = auto()


@commands.command()
def serve(
    config: ConfigPath,
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    http_port: Port = None,
    grpc_port: Port = None,
    allocation: Annotated[
        Path | None, file_option("Allocation (JSON) to use instead of CONFIG's.")
    ] = None,
    without_conformal: Annotated[
        bool, typer.Option("--without-conformal", hidden=True)  # while it is being fitted
    ] = False,
    debug: Debug = False,
) -> None:
    """Serve the ensembles of a configuration until a signal stops the server."""
    with errors_as_lines(debug):
        from server.config import override_server, read_config  # noqa: PLC0415

        given = {"host": host, "http_port": http_port, "grpc_port": grpc_port}
        given = {key: value for key, value in given.items() if value is not None}

        def read(document: Mapping[str, Any] | None) -> Config:
            found = read_config(config, with_conformal=not without_conformal, document=document)
            loaded = override_server(found, **given)
            if allocation is None:
                return loaded
            if not allocation.is_file():
                raise ConfigError(f"--allocation: there is no file {allocation}")
            return loaded.model_copy(update={"allocation": allocation.absolute()})

        import server.supervision.launch  # noqa: PLC0415

        # A server for a measurement leaves nothing behind, and continues nothing.
        keeps_state = not without_conformal
        raise typer.Exit(server.supervision.launch.serve(config, read, keeps_state=keeps_state))


@commands.command()
def check(config: ConfigPath, debug: Debug = False) -> None:
    """Validate a configuration without starting anything."""
    with errors_as_lines(debug):
        loaded = load(config)
        import server.supervision.launch  # noqa: PLC0415

        echo(server.supervision.launch.check(loaded))


@commands.command()
def apply(
    config: ConfigPath,
    *,
    url: ServerUrl = LOCAL_URL,
    key: AdminKey = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show only what would change.")
    ] = False,
    root_certificates: RootCertificates = None,
    certificate: Certificate = None,
    certificate_key: CertificateKey = None,
    debug: Debug = False,
) -> None:
    """Have a running server, which was started with CONFIG, serve what it says now.

    Shows what changes, and returns when that is served: exit status 0; 2 if it was refused, 1
    without an answer. What was served before still is then.
    """
    with errors_as_lines(debug):
        from server.cli.apply import apply  # noqa: PLC0415

        apply(
            config,
            url=url,
            credentials=credentials_of(root_certificates, certificate, certificate_key, key),
            dry_run=dry_run,
        )


@commands.command()
def rollout(
    model: Annotated[str, typer.Argument(help="Name of an ensemble or a member.")],
    action: Annotated[
        Literal["promote", "rollback", "percent"],
        typer.Argument(help="promote, rollback, or percent with the new share."),
    ],
    percent: Annotated[
        float | None, typer.Argument(min=0, max=100, help="The new share, in per cent.")
    ] = None,
    *,
    url: ServerUrl = LOCAL_URL,
    key: AdminKey = None,
    root_certificates: RootCertificates = None,
    certificate: Certificate = None,
    certificate_key: CertificateKey = None,
    debug: Debug = False,
) -> None:
    """Promote the new version of a model that a running server tries, or roll it back.

    Returns when that is served: exit status 0; 2 if it was refused, 1 without an answer.
    """
    with errors_as_lines(debug):
        from server.cli.apply import change_rollout  # noqa: PLC0415

        change_rollout(
            model,
            action,
            percent,
            url=url,
            credentials=credentials_of(root_certificates, certificate, certificate_key, key),
        )


@commands.command()
def history(
    config: ConfigPath,
    *,
    hours: Annotated[float, typer.Option(min=0.0, help="How far to look back.")] = 24.0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show what servers of CONFIG have served: rates, times, the mix of models, batches."""
    with errors_as_lines(debug):
        from server.cli.history import history as show  # noqa: PLC0415

        show(load(config, with_conformal=False), hours=hours, as_json=as_json)


@commands.command()
def health(
    config: ConfigPath,
    *,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds to connect, and for the answer.")
    ] = 5.0,
    debug: Debug = False,
) -> None:
    """Check whether the server of a configuration is ready: exit status 0, else 1."""
    with errors_as_lines(debug):
        from server.cli.health import check_ready  # noqa: PLC0415

        echo(check_ready(load(config), timeout_s=timeout))


@commands.command()
def key(
    name: Annotated[str, typer.Argument(help="Name of the client.")],
    *,
    scope: Annotated[
        list[KeyScope] | None,
        typer.Option(help="Scope of the key [infer]; may be repeated."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Create an API key: its entry for `server.api_keys_file` on stdout, the key on stderr."""
    with errors_as_lines(debug):
        from server.cli.key import make_key  # noqa: PLC0415

        made = make_key(name, scope or [KeyScope.INFER])
        echo(made.entry)
        typer.echo(f"the key, which is shown only now: {made.key}", err=True)
