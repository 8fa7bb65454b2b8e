"""The servers that the clients talk to: started as users do, stopped by its process id.

Runs in the tests' process. The server runs in the project's own environment (`.venv`), which knows
nothing of the clients. `running` yields the server's addresses; afterwards the server must exit
with 0 and leave no process behind.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["ROOT", "START_S", "Server", "project_environment", "project_program", "running"]

ROOT = Path(__file__).parents[2]
#: The first start on a machine trains the networks and measures what they cost.
START_S = 240.0
STOP_S = 30.0


@dataclass(frozen=True)
class Server:
    """Where the server listens: `HOST:PORT` of either protocol, and the URL for HTTP."""

    http: str
    grpc: str

    @property
    def url(self) -> str:
        return f"http://{self.http}"


def project_program(name: str) -> str:
    """A program of the project's environment; the variable PROJECT_BIN says where that is."""
    return str(Path(os.environ.get("PROJECT_BIN", ROOT / ".venv" / "bin")) / name)


def project_environment(**more: str) -> dict[str, str]:
    """Variables with which the project's programs use this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


@contextmanager
def running(config: str | Path = "configs/digits.yaml") -> Iterator[Server]:
    """A server of a configuration on free ports."""
    # Short, because the paths of its sockets must be.
    with tempfile.TemporaryDirectory(prefix="ec-") as temporary:
        log = Path(temporary) / "stderr.txt"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [project_program("ensembled"), "serve", str(config)]
                + ["--http-port", "0", "--grpc-port", "0"],
                cwd=ROOT,
                env=project_environment(TMPDIR=temporary),
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        family: list[psutil.Process] = []
        try:
            addresses = _wait_ready(process, log)
            family = psutil.Process(process.pid).children(recursive=True)
            yield Server(addresses["http"], addresses["grpc"])
            assert process.poll() is None, f"it ended by itself: {log.read_text()}"
            process.terminate()
            assert process.wait(STOP_S) == 0, log.read_text()
            _, left = psutil.wait_procs(family, timeout=10)
            assert left == []
        finally:
            _end(process, family)


def _wait_ready(process: subprocess.Popen[str], log: Path) -> dict[str, str]:
    """Wait for the line that says that the server takes traffic; what it says, by protocol."""
    assert process.stdout is not None
    # A server that is stuck is ended, and then the line is empty.
    watchdog = threading.Timer(START_S, process.kill)
    watchdog.start()
    line = process.stdout.readline()
    watchdog.cancel()
    assert line.startswith("ready "), f"{line!r}; stderr: {log.read_text()}"
    return dict(part.split("=", 1) for part in line.split()[1:])


def _end(process: subprocess.Popen[str], family: list[psutil.Process]) -> None:
    """Make sure that nothing is left, whatever has happened."""
    if process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    process.wait()
    for child in family:
        if child.is_running():
            child.kill()
    if process.stdout is not None:
        process.stdout.close()
