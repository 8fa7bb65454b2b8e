"""A server whose models clients may load and unload: networks that add a number to their input.

Runs in the tests' process. `plus` has versions 1 and 2, which add so much; the ensemble `both` is
the mean of `plus` and `minus`, which adds -1, as does `spare`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from digits_server import START_S, Server, project_environment, project_program
from digits_server import running as running_server

__all__ = ["CONFIG", "Adding", "running"]

CONFIG = """
members:
  plus: {model: {versions: plus, policy: {specific: ["1"]}}}
  minus: {model: minus.onnx}
  spare: {model: minus.onnx}
ensembles:
  both: {members: [plus, minus]}
server:
  repository: {control: explicit, overrides: true}
"""


@dataclass(frozen=True)
class Adding(Server):
    """Where the server listens, and the content of a network that adds 10."""

    ten: bytes


@contextmanager
def running(directory: Path) -> Iterator[Adding]:
    """A server of `CONFIG` on free ports."""
    files = {f"plus/{version}/model.onnx": version for version in (1, 2)}
    files |= {"minus.onnx": -1, "ten.onnx": 10}
    arguments = []
    for name, number in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        arguments += [str(path), str(number)]
    script = Path(__file__).with_name("make_adding.py")
    subprocess.run(
        [project_program("python"), str(script), *arguments],
        env=project_environment(),
        check=True,
        timeout=START_S,
    )
    (directory / "config.yaml").write_text(CONFIG)
    with running_server(directory / "config.yaml") as found:
        yield Adding(found.http, found.grpc, (directory / "ten.onnx").read_bytes())
