"""Connections and descriptors of a server's process, and clients that go without a word."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import psutil
from serving import Server, wait_for

_RESET = struct.pack("ii", 1, 0)


def connections_of(process: psutil.Process) -> list[Any]:
    """Its TCP connections."""
    return [one for one in process.net_connections("tcp") if one.status != "LISTEN"]


@contextlib.contextmanager
def recovering(server: Server, check_canary: Callable[[Server], None]) -> Iterator[None]:
    """After the block a canary is answered, as before it, and no descriptor has stayed."""
    check_canary(server)
    front_end = server.child("front-end")
    wait_for(lambda: not connections_of(front_end), "that nobody is connected")
    before = front_end.num_fds()
    yield
    check_canary(server)
    wait_for(lambda: front_end.num_fds() <= before, "that all descriptors are closed")


@contextlib.contextmanager
def few_descriptors(process: psutil.Process, count: int) -> Iterator[None]:
    """Let a process have no descriptor of that number or above."""
    before = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        process.rlimit(psutil.RLIMIT_NOFILE, before)


def reset(connection: socket.socket) -> None:
    """Close a connection so that the other side is told that it was reset."""
    reset_at_end(connection)
    connection.close()


def reset_at_end(connection: socket.socket) -> None:
    """Have the other side told, when the connection is closed, that it was reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
