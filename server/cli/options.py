"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AsJson", "ConfigPath", "Debug"]

ConfigPath = Annotated[
    Path,
    typer.Argument(metavar="CONFIG", envvar="ENSEMBLED_CONFIG", help="The configuration, YAML."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
