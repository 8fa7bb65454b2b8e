"""The sockets of a server: its two ports, and the directory of those between its processes.

Runs in the process that becomes the supervisor. The ports are bound before anything slow, so a port
that is taken is reported at once. The front-end inherits the listening socket of HTTP. gRPC opens
its own, so its port is only *held*: bound, not listening, for as long as the supervisor lives, so
that no other process gets it while front-ends are restarted.

The directory is locked for as long as the supervisor lives. A supervisor that is killed can't
remove its directory; the next one that starts does, since nobody holds the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq

from server.errors import StartError
from workers.runtime.sockets import COMBINER, FRONT_END, WORKERS

__all__ = [
    "UPLOADS",
    "bind_port",
    "enable_keepalive",
    "format_address",
    "hold_port",
    "socket_directory",
]

#: After a minute of silence, three probes ten seconds apart.
_KEEPALIVE = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}
_PREFIX = "ensembled-sockets-"
#: Beside the sockets, where the files that clients send with a model are put.
UPLOADS = "uploads"


def bind_port(host: str, port: int) -> socket.socket:
    """Return a socket bound to a port; 0 is any that is free.

    Raises:
        StartError: if the port is taken, or the host is not an address of this machine.
    """
    bound = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        if bound is not None:
            bound.close()
        raise StartError(f"can't listen on {host}:{port}: {error.strerror}") from None
    return bound


def hold_port(host: str, port: int) -> socket.socket:
    """Bind a port to which only sockets of this user with SO_REUSEPORT can be bound, too.

    It is bound without SO_REUSEPORT, so a port that anybody listens on, or holds, is refused.
    Nobody else's hold succeeds later, since this socket has no SO_REUSEADDR by then.

    Raises:
        StartError: if the port is taken, or the host is not an address of this machine.
    """
    held = bind_port(host, port)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return held


def enable_keepalive(listener: socket.socket) -> None:
    """Have the kernel close accepted connections whose clients have vanished silently."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        listener.setsockopt(socket.IPPROTO_TCP, option, value)


def format_address(bound: socket.socket) -> str:
    """Return ``HOST:PORT`` of a bound socket; the host is numeric, in brackets if it is IPv6."""
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def socket_directory() -> Iterator[str]:
    """Create a directory for sockets among the temporary files, and remove it in the end.

    Raises:
        OSError: if none can be created.
        StartError: if its path is too long for sockets.
        UnicodeEncodeError: if it is not UTF-8.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            _remove_if_dead(path)
    path, lock = _create_locked()
    try:
        if len(str(path / FRONT_END).encode()) > zmq.IPC_PATH_MAX_LEN:
            raise StartError(f"{path.parent} is too long a name for sockets: set TMPDIR")
        yield str(path)
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _create_locked() -> tuple[Path, int]:
    """Create a directory; return it, and the descriptor that holds its lock."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # Until it is locked, another server may remove it as a dead one's.
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            with contextlib.suppress(OSError):  # some file systems have no locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return path, lock
            os.close(lock)


def _remove_if_dead(path: Path) -> None:
    """Remove a directory of this user whose server is dead, and the sockets and uploads in it.

    Raises:
        OSError: if it contains other files, or its server lives.
    """
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in (WORKERS, FRONT_END, COMBINER):
            (path / name).unlink(missing_ok=True)
        shutil.rmtree(path / UPLOADS, ignore_errors=True)
        path.rmdir()
    finally:
        os.close(lock)
