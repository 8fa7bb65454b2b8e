"""`ensembled predict`: ask a running server.

Runs in the process of the command line; the client is imported when the command runs, since a
server does not need it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from server.cli.application import app, errors_as_lines
from server.cli.options import AsJson, Debug

__all__ = ["predict"]


@app.command()
def predict(
    ensemble: Annotated[str, typer.Argument(help="An ensemble, or a member by itself.")],
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Images; or arrays, .npy, .npz or .json."),
    ],
    *,
    url: Annotated[
        str, typer.Option(help="Of the server; http://, https://, grpc:// or grpcs://.")
    ] = "http://127.0.0.1:8000",
    top: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 5,
    members: Annotated[
        str | None, typer.Option(metavar="A,B", help="Only these members of the ensemble.")
    ] = None,
    quorum: Annotated[
        int | None, typer.Option(min=1, help="Fewest members that an answer may rest on.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds until the answer must be there.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Ask a running server what an ensemble says, and how much its members agree."""
    with errors_as_lines(debug):
        from server.commands.predict import Question, predict  # noqa: PLC0415

        question = Question(
            ensemble=ensemble,
            inputs=inputs,
            url=url,
            top=top,
            members=None if members is None else members.split(","),
            quorum=quorum,
            timeout_s=timeout,
        )
        predict(question, as_json=as_json)
