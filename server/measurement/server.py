"""A server for the length of a measurement: ``ensembled serve CONFIG --allocation FILE``.

Runs in the process of the command line. A configuration's path and a matrix flow in, the address
of a child process that serves them flows out; the child is stopped whatever happens.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from allocator.matrix import AllocationMatrix
from server.errors import StartError

__all__ = ["MeasurementError", "measured_server", "without_access_control"]

#: The child's program, by name: this package does not import the command line.
_PROGRAM = "server.cli.serve_for_parent"
_HOST = "127.0.0.1"
#: Models are loaded and warmed up before a server is ready.
_START_S = 300.0
#: Nothing is in flight when the server is stopped.
_STOP_S = 30.0
_READY = b"ready http="
_ERROR = "error: "
_SERVER = "ENSEMBLED_SERVER"
#: The server is for its parent alone, on the loopback address.
_NO_ACCESS_CONTROL: dict[str, Any] = {"tls": None, "api_keys": [], "api_keys_file": None}


class MeasurementError(StartError):
    """An allocation could not be measured: it does not start, or does not answer."""


@contextlib.contextmanager
def measured_server(config: Path, matrix: AllocationMatrix) -> Iterator[str]:
    """Serve by an allocation for the length of a block; yield ``HOST:PORT`` of the HTTP interface.

    Raises:
        MeasurementError: if the server does not become ready.
    """
    # Clients in this process reach it directly, whatever proxy the environment has.
    direct = os.environ.get("no_proxy", os.environ.get("NO_PROXY", ""))
    if _HOST not in direct.split(","):
        os.environ["no_proxy"] = f"{direct},{_HOST}"
    # Neither file has a name, so that nothing is left of them however this process ends.
    with tempfile.TemporaryFile() as allocation, tempfile.TemporaryFile() as log:
        allocation.write(matrix.to_json().encode())
        allocation.seek(0)  # flushes; and where /dev/fd shares the position, it is read from here
        with _child(config, allocation.fileno(), log) as process:
            yield _wait_ready(process, log)


def without_access_control(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a server has no API keys, TLS, or limit per client."""
    removed = tuple(f"{_SERVER}__{key}".upper() for key in _NO_ACCESS_CONTROL)
    kept = {
        name: value for name, value in environment.items() if not name.upper().startswith(removed)
    }
    section = json.loads(kept.get(_SERVER) or "{}")
    limit = {f"{_SERVER}__LIMITS__CLIENT_REQUESTS": "0"}
    return {**kept, **limit, _SERVER: json.dumps({**section, **_NO_ACCESS_CONTROL})}


@contextlib.contextmanager
def _child(config: Path, allocation: int, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", _PROGRAM, "serve", str(config)),
            *("--host", _HOST, "--http-port", "0", "--grpc-port", "0"),
            *("--allocation", f"/dev/fd/{allocation}", "--without-conformal"),
        ],
        env=without_access_control(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        pass_fds=[allocation],
        process_group=0,  # the terminal's Ctrl-C is for the parent, which stops it in order
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()  # its own children end with it
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _wait_ready(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """Return the address that the server prints once it is ready."""
    assert process.stdout is not None
    output, deadline = b"", time.monotonic() + _START_S
    while True:
        *lines, _unfinished = output.split(b"\n")
        for line in lines:
            if line.startswith(_READY):
                return line.removeprefix(_READY).split()[0].decode()
        left_s = max(0.0, deadline - time.monotonic())
        if not select.select([process.stdout], [], [], left_s)[0]:
            raise MeasurementError(f"it is not ready after {_START_S:.0f} s")
        chunk = os.read(process.stdout.fileno(), 4096)
        if not chunk:
            raise MeasurementError(f"it does not start: {_reason(log)}")
        output += chunk


def _reason(log: IO[bytes]) -> str:
    """The first error in the server's log, or else its last line."""
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    errors = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    return next(iter(errors or lines[-1:]), "it printed nothing")
