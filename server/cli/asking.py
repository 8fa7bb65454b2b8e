"""`ensembled predict`: ask a running server.

Runs in the process of the command line; the client is imported when the command runs, since a
server does not need it.
"""

from __future__ import annotations

import os
from pathlib import Path
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
        str,
        typer.Option(
            envvar="ENSEMBLED_URL", help="Of the server; http://, https://, grpc:// or grpcs://."
        ),
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
    root_certificates: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Whom to trust (PEM), https and grpcs.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="To show to a server that asks for one.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The certificate's private key.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Ask a running server what an ensemble says, and how much its members agree.

    An API key is taken from ENSEMBLED_API_KEY.
    """
    with errors_as_lines(debug):
        from server.cli.predict import Question, predict  # noqa: PLC0415

        question = Question(
            ensemble=ensemble,
            inputs=inputs,
            url=url,
            top=top,
            members=None if members is None else members.split(","),
            quorum=quorum,
            timeout_s=timeout,
            access={
                "root_certificates": root_certificates,
                "certificate": certificate,
                "key": key,
                "api_key": os.environ.get("ENSEMBLED_API_KEY") or None,
            },
        )
        predict(question, as_json=as_json)
