"""The command line `ensembled`: its groups of commands, in the order of the help.

Runs in the process of the command line; `serve` makes it the supervisor. The work is done by the
module of the command, which is imported only when the command runs, so that `--help` stays
instantaneous.
"""

from __future__ import annotations

from server.cli.application import app
from server.cli.ensembles_commands import commands as ensembles
from server.cli.models_commands import commands as models
from server.cli.placement_commands import commands as placement
from server.cli.selection_commands import commands as selection
from server.cli.serving_commands import commands as serving
from server.stdout import typer_prints_to_stdout

__all__ = ["app", "main"]

for group in (serving, models, placement, ensembles, selection):
    app.add_typer(group)


def main() -> None:
    """Run the command line."""
    with typer_prints_to_stdout():
        app()
