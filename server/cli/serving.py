"""`ensembled serve`, `check` and `health`: what becomes of a configuration; and `key`.

`serve` runs in the process that becomes the supervisor. The commands only read the configuration
and hand it on; what does the work is imported when they run, so that `--help` answers at once.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from server.cli.application import app, errors_as_lines
from server.cli.options import ConfigPath, Debug
from server.errors import ConfigError
from server.stdout import echo

__all__ = ["check", "health", "key", "serve"]


class Scope(Enum):
    """The scopes of API keys."""

    INFER = "infer"
    ADMIN = "admin"
    URGENT = "urgent"


Port = Annotated[int | None, typer.Option(min=0, max=65535, help="0 is any free port.")]


@app.command()
def serve(
    config: ConfigPath,
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    http_port: Port = None,
    grpc_port: Port = None,
    allocation: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Which member runs where, JSON, instead of CONFIG's."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Serve the ensembles of a configuration until told to stop."""
    with errors_as_lines(debug):
        from server.config import Config, load_config, override_server  # noqa: PLC0415

        given = {"host": host, "http_port": http_port, "grpc_port": grpc_port}
        given = {key: value for key, value in given.items() if value is not None}

        def read() -> Config:
            loaded = override_server(load_config(config), **given)
            if allocation is None:
                return loaded
            if not allocation.is_file():
                raise ConfigError(f"--allocation: there is no file {allocation}")
            return loaded.model_copy(update={"allocation": allocation.absolute()})

        loaded = read()
        import server.supervision.launch  # noqa: PLC0415

        raise typer.Exit(server.supervision.launch.serve(loaded, read))


@app.command()
def check(config: ConfigPath, debug: Debug = False) -> None:
    """Validate a configuration without starting anything."""
    with errors_as_lines(debug):
        from server.config import load_config  # noqa: PLC0415

        loaded = load_config(config)
        import server.supervision.launch  # noqa: PLC0415

        echo(server.supervision.launch.check(loaded))


@app.command()
def health(
    config: ConfigPath,
    *,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds that connecting, and the answer, may take.")
    ] = 5.0,
    debug: Debug = False,
) -> None:
    """Ask the running server of a configuration whether it is ready: exit 0, else 1."""
    with errors_as_lines(debug):
        from server.cli.health import ask_ready  # noqa: PLC0415
        from server.config import load_config  # noqa: PLC0415

        echo(ask_ready(load_config(config), timeout_s=timeout))


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    *,
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it is good for; may be given several times.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Make an API key: the entry for `server.api_keys_file` on stdout, the key itself on stderr."""
    with errors_as_lines(debug):
        from server.cli.key import make_key  # noqa: PLC0415

        made = make_key(name, tuple(one.value for one in scope or [Scope.INFER]))
        echo(made.entry)
        typer.echo(f"the key, which is shown only now: {made.key}", err=True)
