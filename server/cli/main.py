"""The command `ensembled`: arguments in, an exit code and lines of text out."""

from server.cli import serving, asking, placing, calibrating  # isort: skip (the order of the help)
from server.cli.application import app, main

__all__ = ["app", "asking", "calibrating", "main", "placing", "serving"]
