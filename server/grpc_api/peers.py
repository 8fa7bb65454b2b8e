"""Ending gRPC connections from below: gRPC's server in Python has no way to end one, or a call.

Runs in the front-end, for clients that don't take their answers. The names of peers flow in, as
gRPC writes them; their sockets are shut down, and gRPC finds them closed.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Set
from urllib.parse import unquote

__all__ = ["end_connections"]

Peer = tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]


def end_connections(peers: Set[str]) -> int:
    """Shut down this process's connections with these peers; how many there were.

    Args:
        peers: like ``ipv4:127.0.0.1:50000`` or ``ipv6:%5B::1%5D:50000``.
    """
    wanted = {_read_peer(peer) for peer in peers}
    ended = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), _copy(int(name)) as copy:
            if copy.family in {socket.AF_INET, socket.AF_INET6}:
                host, port = copy.getpeername()[:2]
                if (_address(host), port) in wanted:
                    copy.shutdown(socket.SHUT_RDWR)
                    ended += 1
    return ended


def _copy(fd: int) -> socket.socket:
    """A copy of a socket, which stays what it is even if gRPC closes the connection meanwhile.

    Raises:
        OSError: if it is no socket.
    """
    copy = os.dup(fd)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def _read_peer(peer: str) -> Peer:
    host, _, port = unquote(peer).partition(":")[2].rpartition(":")
    return _address(host.strip("[]")), int(port)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped  # to gRPC, this is IPv4
    return address
