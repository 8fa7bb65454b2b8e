"""The ZeroMQ sockets of a server, in one private directory.

Used by the front-end, the workers and the combiner::

    front-end  ROUTER workers.ipc   <->  DEALER (identity device/incarnation)  worker
    front-end  PULL   front-end.ipc  <-  PUSH                                  combiner
    combiner   PULL   combiner.ipc   <-  PUSH                                  worker, front-end

They carry what is rare: hellos, resets, what the rings of `workers.runtime.queues` have no space
for, and empty messages that only wake, if ZeroMQ is the bell. High-water marks are off, because
credits bound what is in flight; and nothing lingers, because the arena is the truth.

A socket's descriptor is edge-triggered, and any use of the socket may consume an edge: a process
that waits for it therefore receives until nothing is left, also after each send.
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

#: As plain numbers: arithmetic on pyzmq's enumerations takes as long as the call itself.
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)

_T = TypeVar("_T")
Decoder = msgspec.msgpack.Decoder


def open_socket(
    kind: int, directory: str, name: str, *, bind: bool, identity: str = ""
) -> zmq.Socket[bytes]:
    """Open one of the sockets named above, and bind or connect it (and keep reconnecting).

    `identity` is the routing id of a DEALER.
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
    """Receive all pending messages without blocking; empty ones, which only wake, are dropped."""
    messages: list[_T] = []
    while can_receive(socket):
        if payload := socket.recv(zmq.NOBLOCK):
            messages.append(decoder.decode(payload))
    return messages


def descriptor(socket: zmq.Socket[bytes]) -> int:
    """Return the file descriptor that becomes readable when something happens on the socket."""
    return cast(int, socket.get(int(zmq.FD)))


def can_receive(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message is pending (cheaper than to catch the exception of a failed receive)."""
    return bool(cast(int, socket.get(_EVENTS)) & _POLLIN)
