"""Servers for the length of a measurement: peers, and this project's at any commit.

Each is started, its answer is compared with the one that is right, and it is stopped.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil

from benchmarks.errors import BenchmarkError
from benchmarks.infer_request import EncodedRequest, ask, binary_request, check_answer, exchange
from benchmarks.peers.environments import python_for, version_of
from benchmarks.peers.registry import Peer
from benchmarks.peers.servers.task import VARIABLE, Task
from benchmarks.process_cost import Usage, family, usage_of
from benchmarks.server_process import RunningServer, last_lines, running_server
from benchmarks.serving import Case
from workers.backends.base import Array

__all__ = ["Asked", "System", "checkout_name", "running_ours", "running_peer"]

_ROOT = Path(__file__).resolve().parent.parent.parent
_START_S = 120.0
_STOP_S = 20.0
_PAUSE_S = 0.1


@dataclass(frozen=True)
class Asked:
    """What every system is asked.

    Attributes:
        row: [1, ...], FP32.
        expected: the answer that is right, [1, outputs].
    """

    row: Array
    expected: Array


@dataclass(frozen=True)
class System:
    """A server that runs, and whose answer was right.

    Attributes:
        name: in tables.
        version: of it.
        address: ``HOST:PORT``.
        request: what is measured.
        usage: tells what its processes have used so far.
    """

    name: str
    version: str
    address: str
    request: EncodedRequest
    usage: Callable[[], dict[str, Usage]]


@contextlib.contextmanager
def running_ours(
    case: Case, asked: Asked, task: Task, checkout: Path | None = None
) -> Iterator[System]:
    """Serve a case with this project's server for the length of a block.

    Args:
        case: whose configuration is served.
        asked: what is asked.
        task: what is served, as peers are told.
        checkout: another copy of this project whose server is run; this one's if not given.

    Raises:
        BenchmarkError: if it does not become ready, or its answer is wrong.
    """
    request = binary_request(task.model, task.input, asked.row)
    with _server_of(case.config, checkout) as server:
        check_answer(ask(server.address, request), asked.expected)
        yield System(
            name="ours" if checkout is None else checkout_name(checkout),
            version=_commit(_ROOT if checkout is None else checkout),
            address=server.address,
            request=request,
            usage=server.usage,
        )


@contextlib.contextmanager
def _server_of(config: Path, checkout: Path | None) -> Iterator[RunningServer]:
    if checkout is None:
        with running_server(config) as server:
            yield server
        return
    config = checkout / config.relative_to(_ROOT)  # its own, in case the format has changed
    own = checkout / ".venv/bin/python"
    python = str(own) if own.exists() else sys.executable
    module, function = _entry_point(checkout)
    command = (python, "-P", "-c", f"from {module} import {function}; {function}()")
    path = f"{checkout.resolve()}:{checkout.resolve() / 'clients'}"
    with running_server(config, command=command, PYTHONPATH=path) as server:
        yield server


def _entry_point(checkout: Path) -> tuple[str, str]:
    """Module and function of a checkout's command `ensembled`."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    module, function = project["scripts"]["ensembled"].split(":")
    return module, function


def checkout_name(checkout: Path) -> str:
    """What this project's server in another copy of it is called: by its commit."""
    return f"ours at {_commit(checkout)}"


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.stdout.strip() or "unknown"


@contextlib.contextmanager
def running_peer(peer: Peer, task: Task, asked: Asked) -> Iterator[System]:
    """Serve with a peer for the length of a block.

    Args:
        peer: who serves.
        task: what; the port is chosen here.
        asked: what is asked.

    Raises:
        BenchmarkError: if it can't be installed or started, or its answer is wrong.
    """
    python = python_for(peer)
    task = replace(task, port=_free_port())
    address = f"127.0.0.1:{task.port}"
    request = _request(peer, task, asked.row)
    with (
        tempfile.TemporaryFile() as log,
        tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as scratch,
    ):
        process = subprocess.Popen(
            [python, "-P", "-m", peer.module],
            env={
                **os.environ,
                VARIABLE: task.text(),
                "PYTHONPATH": str(_ROOT),
                "TMPDIR": scratch,
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            answer = _wait_answer(process, peer, address, request)
            if not peer.is_server_alone:
                check_answer(answer, asked.expected)
            yield System(
                peer.name,
                version_of(peer, python),
                address,
                request,
                lambda: usage_of(family(process.pid)),
            )
        except BenchmarkError as error:
            raise BenchmarkError(f"{error}; its log ends: {last_lines(log)}") from error
        finally:
            _stop(process)


def _request(peer: Peer, task: Task, row: Array) -> EncodedRequest:
    if peer.open_inference:
        return binary_request(task.model, task.input, row)
    return EncodedRequest(peer.path, row.tobytes(), {"Content-Type": "application/octet-stream"})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_answer(
    process: subprocess.Popen[bytes], peer: Peer, address: str, request: EncodedRequest
) -> Array:
    """Ask until there is an answer."""
    deadline = time.monotonic() + _START_S
    while True:
        try:
            if peer.open_inference:
                return ask(address, request)
            return np.frombuffer(exchange(address, request)[0], "<f4")[None]
        except (BenchmarkError, OSError, http.client.HTTPException, ValueError) as error:
            if process.poll() is not None:
                raise BenchmarkError(f"it ended with status {process.returncode}") from None
            if time.monotonic() > deadline:
                raise BenchmarkError(f"no answer after {_START_S:.0f} s: {error}") from None
        time.sleep(_PAUSE_S)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Tell a peer to stop, and end what is left of its processes."""
    try:
        left = family(process.pid)
    except psutil.NoSuchProcess:
        left = []
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    _, alive = psutil.wait_procs(left, timeout=1)
    for one in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
