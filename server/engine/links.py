"""The front-end's links to the workers and the combiner.

Runs in the front-end's event loop. Typed messages flow both ways; payload never does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

import zmq

from workers.channels import (
    COMBINER,
    FRONT_END,
    WORKERS,
    Decoder,
    can_receive,
    descriptor,
    drain,
    open_socket,
)
from workers.messages import (
    Assign,
    Combined,
    CombinerHello,
    Hello,
    Ready,
    Reset,
    ToCombiner,
    Unsure,
    encode,
)

__all__ = ["FromCombiner", "FromWorker", "Links"]

_log = logging.getLogger(__name__)

FromWorker = Hello | Ready
FromCombiner = Combined | CombinerHello | Unsure


class Links:
    """All links of this front-end.

    Args:
        sockets: the private socket directory.
    """

    def __init__(self, sockets: str) -> None:
        self._router = open_socket(zmq.ROUTER, sockets, WORKERS, bind=True)
        self._inbox = open_socket(zmq.PULL, sockets, FRONT_END, bind=True)
        self._combiner = open_socket(zmq.PUSH, sockets, COMBINER, bind=False)
        self._from_workers: Decoder[FromWorker] = Decoder(FromWorker)
        self._from_combiner: Decoder[FromCombiner] = Decoder(FromCombiner)
        self._identities: dict[str, bytes] = {}
        self._devices: dict[bytes, str] = {}
        self._look: Callable[[], object] = lambda: None

    def start(self, loop: asyncio.AbstractEventLoop, on_news: Callable[[], None]) -> None:
        """Have `on_news` called whenever there may be something to receive."""
        # A ZeroMQ descriptor signals edges, and any use of its socket may swallow one: so all is
        # received until nothing is left, and the socket is looked at again after every send.
        loop.add_reader(descriptor(self._inbox), on_news)
        loop.add_reader(descriptor(self._router), on_news)
        self._look = lambda: loop.call_soon(on_news)

    def started(self, device: str, incarnation: int) -> None:
        """A new process is being started for a device."""
        identity = f"{device}/{incarnation}".encode()
        self._identities[device] = identity
        self._devices[identity] = device

    def forget(self, device: str) -> None:
        """A device's process was reaped: what it has said and nobody has heard is dropped."""
        self._devices.pop(self._identities.pop(device), None)

    def send(self, device: str, message: Assign | Reset) -> bool:
        """Send a device's worker a message; False if it can't be reached."""
        try:
            self._router.send(self._identities[device], zmq.NOBLOCK | zmq.SNDMORE)
            self._router.send(encode(message), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            _log.warning("worker %s can't be reached: %s", device, error)
            return False
        self._look()
        return True

    def tell_combiner(self, message: ToCombiner) -> None:
        """Send the combiner a message."""
        self._combiner.send(encode(message))

    def receive(self) -> Iterator[tuple[str, FromWorker] | FromCombiner]:
        """All that was sent: by workers with their device, and by the combiner."""
        while can_receive(self._router):
            identity = self._router.recv(zmq.NOBLOCK)
            payload = self._router.recv(zmq.NOBLOCK)
            device = self._devices.get(identity)
            if device is not None:  # else of a process that is gone
                yield device, self._from_workers.decode(payload)
        while messages := drain(self._inbox, self._from_combiner):
            yield from messages
