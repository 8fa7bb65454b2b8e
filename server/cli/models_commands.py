"""Commands about a model: `describe`, `predict` and `import`.

Runs in the process of the command line. Arguments flow in, the modules of the commands do the work.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from server.cli.application import errors_as_lines
from server.cli.arguments import (
    LOCAL_URL,
    AsJson,
    Certificate,
    Debug,
    RootCertificates,
    ServerUrl,
    credentials_of,
    file_option,
)

__all__ = ["commands"]

commands = typer.Typer()


@commands.command()
def describe(
    target: Annotated[
        str, typer.Argument(metavar="CONFIG|URL", help="Configuration, or URL of a server.")
    ],
    model: Annotated[
        str,
        typer.Argument(help="Name of an ensemble or a member; a version of it is NAME@VERSION."),
    ],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    debug: Debug = False,
) -> None:
    """Show a model's inputs, outputs and labels, and example requests for several clients.

    A configuration's models are inspected, and nothing is started. The API key of a server, if it
    needs one, is read from ENSEMBLED_API_KEY.
    """
    with errors_as_lines(debug):
        from server.cli.describe import describe  # noqa: PLC0415

        describe(target, model, as_json=as_json)


@commands.command()
def predict(
    ensemble: Annotated[
        str,
        typer.Argument(help="Name of an ensemble or a member; a version of it is NAME@VERSION."),
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE...]", help="Images, or arrays (.npy, .npz or .json)."),
    ] = None,
    *,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Rows instead of files: a list such as texts, or lists by input name.",
        ),
    ] = None,
    url: ServerUrl = LOCAL_URL,
    top: Annotated[int, typer.Option(min=1, help="Number of classes to show.")] = 5,
    members: Annotated[
        str | None, typer.Option(metavar="A,B", help="Use only these members of the ensemble.")
    ] = None,
    quorum: Annotated[
        int | None, typer.Option(min=1, help="Minimum number of members for an answer.")
    ] = None,
    coverage: Annotated[
        float | None, typer.Option(help="Show intervals, or sets of classes, of this coverage.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Deadline of the answer, in seconds.")
    ] = None,
    root_certificates: RootCertificates = None,
    certificate: Certificate = None,
    key: Annotated[Path | None, file_option("Private key of the client certificate.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Request a prediction from a running server, and show how much the members agree.

    The API key, if one is needed, is read from ENSEMBLED_API_KEY.
    """
    with errors_as_lines(debug):
        from server.cli.predict import predict  # noqa: PLC0415

        predict(
            ensemble,
            inputs or [],
            data=data,
            url=url,
            credentials=credentials_of(
                root_certificates, certificate, key, os.environ.get("ENSEMBLED_API_KEY")
            ),
            top=top,
            as_json=as_json,
            members=None if members is None else members.split(","),
            quorum=quorum,
            timeout=timeout,
            coverage=coverage,
        )


@commands.command("import")
def import_model(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="Model file or directory, or FILE.py:CLASS.")
    ],
    *,
    config: Annotated[
        Path | None,
        file_option("Configuration to add the member to, instead of printing its entry."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the member [the file's].")] = None,
    output_name: Annotated[
        str | None, typer.Option(help="Which of the model's outputs to use.")
    ] = None,
    trust_pickle: Annotated[
        bool,
        typer.Option("--trust-pickle", help="Open a pickle, which can run any code."),
    ] = False,
    debug: Debug = False,
) -> None:
    """Tell what a model is and takes, and write its entry in a configuration's members."""
    with errors_as_lines(debug):
        import server.cli.import_model  # noqa: PLC0415

        server.cli.import_model.import_model(
            path, config=config, name=name, output_name=output_name, trust_pickle=trust_pickle
        )
