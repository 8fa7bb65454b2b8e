"""The server's two ports, bound before anything slow: whether they are free is known at once.

Runs in the process that becomes the supervisor. The front-end inherits the listening socket of
HTTP. gRPC opens its own, so its port is only *held*: bound, not listening, for as long as the
supervisor lives; front-ends may come and go, nobody else gets the port.
"""

from __future__ import annotations

import socket

from server.errors import StartError

__all__ = ["bind_port", "hold_port", "notice_absence", "spoken_address"]

#: After a minute of silence, three questions that nobody answers.
_PROBES = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}


def bind_port(host: str, port: int) -> socket.socket:
    """Bind a port for whoever gets the socket; 0 is any that is free.

    Raises:
        StartError: if it is taken, or the host is none of ours.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _refusal(host, port, error) from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise _refusal(host, port, error) from None
    return bound


def notice_absence(listening: socket.socket) -> None:
    """Have the kernel end connections whose clients have vanished without a word.

    Connections inherit it from the socket that accepts them.
    """
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _PROBES.items():
        listening.setsockopt(socket.IPPROTO_TCP, option, value)


def hold_port(host: str, port: int) -> socket.socket:
    """Bind a port that only sockets of this user with SO_REUSEPORT can be bound to, too.

    It is bound without SO_REUSEPORT, so a port that anybody listens on, or holds, is refused.
    Nobody else's hold succeeds later, since this socket has no SO_REUSEADDR by then.

    Raises:
        StartError: if it is taken, or the host is none of ours.
    """
    held = bind_port(host, port)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return held


def spoken_address(bound: socket.socket) -> str:
    """``HOST:PORT`` of a bound socket; the host is numeric, in brackets if it is IPv6."""
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refusal(host: str, port: int, error: OSError) -> StartError:
    return StartError(f"can't listen on {host}:{port}: {error.strerror}")
