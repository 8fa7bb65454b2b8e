"""A server for the length of a measurement: ``ensembled serve CONFIG --allocation FILE``.

Runs in the process of the command line. A configuration's path and a matrix flow in, the address
of a child process that serves them flows out; the child is stopped whatever happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from allocator.matrix import AllocationMatrix

__all__ = ["MeasurementError", "measured_server", "serve_for_parent", "unguarded"]

#: Models are loaded and warmed up before a server is ready.
_START_S = 300.0
#: Nothing is in flight when it is told to stop.
_STOP_S = 30.0
_PR_SET_PDEATHSIG = 1
_READY = b"ready http="
_ERROR = "error: "
#: It is for its parent alone, on the loopback address, and all requests are one client's.
_UNGUARDED: dict[str, Any] = {"tls": None, "api_keys": [], "api_keys_file": None}
_SERVER = "ENSEMBLED_SERVER"
_COMMAND = (
    "from server.stdout import keep_stdout; keep_stdout(); "
    "from server.measurement.server import serve_for_parent; serve_for_parent()"
)


class MeasurementError(Exception):
    """An allocation could not be measured: it does not start, or does not answer."""


@contextlib.contextmanager
def measured_server(config: Path, matrix: AllocationMatrix) -> Iterator[str]:
    """Serve a configuration by an allocation for the length of a block.

    Args:
        config: the configuration file.
        matrix: which member runs where.

    Yields:
        ``HOST:PORT`` of its HTTP interface.

    Raises:
        MeasurementError: if the server does not become ready.
    """
    # Neither file has a name, so that nothing is left of them however this process ends.
    with tempfile.TemporaryFile() as allocation, tempfile.TemporaryFile() as log:
        allocation.write(matrix.to_json().encode())
        allocation.seek(0)  # flushes; and where /dev/fd shares the position, it is read from here
        with _child(config, allocation.fileno(), log) as process:
            yield _wait_ready(process, log)


def unguarded(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which a server asks for no keys, and speaks no TLS.

    Args:
        environment: with which the configuration was found to be valid.
    """
    guards = tuple(f"{_SERVER}__{key}".upper() for key in _UNGUARDED)
    kept = {name: text for name, text in environment.items() if not name.upper().startswith(guards)}
    section = json.loads(kept.get(_SERVER) or "{}")
    limit = {f"{_SERVER}__LIMITS__CLIENT_REQUESTS": "0"}
    return {**kept, **limit, _SERVER: json.dumps({**section, **_UNGUARDED})}


def serve_for_parent() -> None:
    """Be the command line in a child process, which is told to stop when its parent dies."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux: the parent's block must do
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    from server.cli.main import main  # noqa: PLC0415 (only the child is a command line)

    main()


@contextlib.contextmanager
def _child(config: Path, allocation: int, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    listen = ("--host", "127.0.0.1", "--http-port", "0", "--grpc-port", "0")
    process = subprocess.Popen(
        [
            *(sys.executable, "-P", "-c", _COMMAND, "serve", str(config), *listen),
            *("--allocation", f"/dev/fd/{allocation}"),
        ],
        env=unguarded(os.environ),
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
    """Return the address that the server tells once it is ready.

    Raises:
        MeasurementError: if it ends or takes too long; with the reason that it gave.
    """
    assert process.stdout is not None
    output, deadline = b"", time.monotonic() + _START_S
    while True:
        *lines, _unfinished = output.split(b"\n")
        for line in lines:
            if line.startswith(_READY):
                return line.removeprefix(_READY).split()[0].decode()
        left = max(0.0, deadline - time.monotonic())
        if not select.select([process.stdout], [], [], left)[0]:
            raise MeasurementError(f"it is not ready after {_START_S:.0f} s")
        chunk = os.read(process.stdout.fileno(), 4096)
        if not chunk:
            raise MeasurementError(f"it does not start: {_last_words(log)}")
        output += chunk


def _last_words(log: IO[bytes]) -> str:
    """The first error that the server told, or else its last line."""
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    errors = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    return next(iter(errors or lines[-1:]), "it said nothing")
