"""The ZeroMQ sockets of a server, in one private directory.

Used by the front-end, the workers and the combiner::

    front-end  ROUTER workers.ipc   <->  DEALER (identity device/incarnation)  worker
    front-end  PULL   front-end.ipc  <-  PUSH                                  combiner
    combiner   PULL   combiner.ipc   <-  PUSH                                  worker, front-end

They carry what is rare: hellos, resets, what has no room in the rings of `workers.runtime.queues`,
and, if ZeroMQ is the bell, empty messages that only wake. High-water marks are off: credits bound
what is in flight. Nothing lingers: the arena is the truth.

A socket's descriptor signals edges, and any use of the socket may swallow one: so whoever waits for
it receives until nothing is left, after whatever it has sent.
"""

from __future__ import annotations

import os
from typing import TypeVar, cast

import msgspec
import zmq

__all__ = [
    "COMBINER",
    "FRONT_END",
    "WORKERS",
    "Decoder",
    "can_receive",
    "descriptor",
    "drain",
    "open_socket",
]

WORKERS = "workers.ipc"
FRONT_END = "front-end.ipc"
COMBINER = "combiner.ipc"

#: As plain numbers: arithmetic on the library's enumerations takes as long as the call itself.
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)

_T = TypeVar("_T")
Decoder = msgspec.msgpack.Decoder


def open_socket(
    kind: int, directory: str, name: str, *, bind: bool, identity: str = ""
) -> zmq.Socket[bytes]:
    """Open a socket of this process's one context and bind or connect it.

    Args:
        kind: ``zmq.PUSH``, ``PULL``, ``ROUTER`` or ``DEALER``.
        directory: the server's private socket directory.
        name: one of the names above.
        bind: bind if true, else connect (and keep reconnecting).
        identity: routing id of a DEALER.
    """
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    socket.linger = 0
    socket.sndhwm = 0
    socket.rcvhwm = 0
    socket.setsockopt(zmq.RECONNECT_IVL, 10)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 100)
    if kind == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    if identity:
        socket.setsockopt(zmq.ROUTING_ID, identity.encode())
    address = "ipc://" + os.path.join(directory, name)
    if bind:
        socket.bind(address)
    else:
        socket.connect(address)
    return socket


def drain(socket: zmq.Socket[bytes], decoder: Decoder[_T]) -> list[_T]:
    """Receive all that is waiting on `socket`, without blocking."""
    messages: list[_T] = []
    while can_receive(socket):
        if payload := socket.recv(zmq.NOBLOCK):
            messages.append(decoder.decode(payload))
    return messages


def descriptor(socket: zmq.Socket[bytes]) -> int:
    """The file descriptor that becomes readable when something happens on the socket."""
    return cast(int, socket.get(int(zmq.FD)))


def can_receive(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message is waiting (cheaper to ask than to catch the error of trying)."""
    return bool(cast(int, socket.get(_EVENTS)) & _POLLIN)
