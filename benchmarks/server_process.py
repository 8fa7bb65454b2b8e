"""A server for the length of a measurement: ``ensembled serve CONFIG`` on a free port.

Starts it, waits until it is ready, tells what its processes cost, and stops it.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import psutil

from benchmarks.errors import BenchmarkError
from benchmarks.figures import ProcessMemory
from benchmarks.process_cost import Usage, family, usage_of

__all__ = ["RunningServer", "last_lines", "parse_ready", "running_server"]

_START_S = 300.0
_STOP_S = 30.0
_LOG_LINES = 4
_MIB = 1 << 20
_ANY_PORTS = ("--http-port", "0", "--grpc-port", "0")
_READY = re.compile(rb"^ready http=(\S+) grpc=(\S+)", re.MULTILINE)


def parse_ready(output: bytes) -> tuple[str, str] | None:
    """Return what a server has printed, ``HOST:PORT`` of HTTP and gRPC; None if it is not ready."""
    *lines, _unfinished = output.split(b"\n")
    found = _READY.search(b"\n".join(lines))
    return (found[1].decode(), found[2].decode()) if found else None


class RunningServer:
    """A server that is ready.

    Attributes:
        pid: of the supervisor.
        address: ``HOST:PORT`` of its HTTP interface.
        grpc: ``HOST:PORT`` of its gRPC interface.
    """

    def __init__(self, process: subprocess.Popen[bytes], address: str, grpc: str) -> None:
        self._process = process
        self.pid = process.pid
        self.address = address
        self.grpc = grpc

    def stop(self) -> int:
        """Tell it to stop; its exit status, which is not 0 if it had to be killed."""
        _stop(self._process)
        return self._process.returncode

    def usage(self) -> dict[str, Usage]:
        """Return what its processes have used so far, by role."""
        return usage_of(family(self.pid))

    def memory(self) -> tuple[ProcessMemory, ...]:
        """Return the memory of each of its processes now."""
        return tuple(_memory(process) for process in family(self.pid))


def _memory(process: psutil.Process) -> ProcessMemory:
    info = process.memory_full_info()
    name = process.cmdline()[0]
    return ProcessMemory(name, info.rss / _MIB, info.pss / _MIB, info.uss / _MIB)


@contextlib.contextmanager
def running_server(
    config: Path,
    *,
    log_file: Path | None = None,
    command: Sequence[str] = (),
    **environment: str,
) -> Iterator[RunningServer]:
    """Serve a configuration for the length of a block.

    A `BenchmarkError` raised in the block comes out with what the server logged last.

    Args:
        config: its file.
        log_file: where its log is kept, nowhere if not given.
        command: what to run instead of this installation's `ensembled`.
        environment: more variables.

    Raises:
        BenchmarkError: if the server does not become ready.
    """
    with tempfile.TemporaryFile() if log_file is None else log_file.open("w+b") as log:
        process = subprocess.Popen(
            [*(command or [_command()]), "serve", str(config), "--host", "127.0.0.1", *_ANY_PORTS],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=log,
        )
        try:
            yield RunningServer(process, *_wait_ready(process))
        except BenchmarkError as error:
            raise BenchmarkError(f"{error}; the server's log ends: {last_lines(log)}") from error
        finally:
            _stop(process)
            assert process.stdout is not None
            process.stdout.close()


def _command() -> str:
    beside = Path(sys.executable).with_name("ensembled")
    command = str(beside) if beside.exists() else shutil.which("ensembled")
    if command is None:
        raise BenchmarkError("the command `ensembled` is not installed: make setup")
    return command


def _wait_ready(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    assert process.stdout is not None
    output = b""
    deadline = time.monotonic() + _START_S
    while (addresses := parse_ready(output)) is None:
        left = max(0.0, deadline - time.monotonic())
        if not select.select([process.stdout], [], [], left)[0]:
            raise BenchmarkError(f"the server is not ready after {_START_S:.0f} s")
        chunk = os.read(process.stdout.fileno(), 4096)
        if not chunk:
            raise BenchmarkError(f"the server ended with status {process.wait()}")
        output += chunk
    return addresses


def last_lines(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return "; ".join(lines[-_LOG_LINES:]) or "nothing"


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
