"""All that goes between the front-end and the other processes: rings, bells and ZeroMQ sockets.

Runs in the front-end's event loop. `Assign` and what goes to the combiner flow out; `Hello`,
`Ready`, `Combined`, `Unsure` and `CombinerHello` flow in, whenever somebody asks with `receive`.

The loop can't tell when it is about to sleep. So the front-end is awake from the first news on and
looks again in every turn of the loop; at the first look that finds nothing it says that it sleeps,
and looks once more (`workers.runtime.queues`). Under load hardly a bell is rung.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from functools import partial

import zmq

from workers.runtime.memory import SharedMemory
from workers.runtime.messages import (
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
from workers.runtime.queues import Queues
from workers.runtime.rings import fence
from workers.runtime.sockets import (
    COMBINER,
    FRONT_END,
    WORKERS,
    Decoder,
    can_receive,
    descriptor,
    drain,
    open_socket,
)

__all__ = ["Links", "News"]

_log = logging.getLogger(__name__)
_NAME = "front-end"
_MESSAGES_AT_ONCE = 64

#: What a device's worker says, or the combiner.
News = tuple[str, Hello | Ready] | Combined | Unsure | CombinerHello


class Links:
    """The front-end's ends of all queues.

    Args:
        memory: the shared memory.
        sockets: the private socket directory.
        epoch: this front-end's.
    """

    def __init__(self, *, memory: SharedMemory, sockets: str, epoch: int) -> None:
        spec = memory.spec.queues
        queues = Queues(memory.buffer, spec)
        self._epoch = epoch
        self._router = open_socket(zmq.ROUTER, sockets, WORKERS, bind=True)
        self._inbox = open_socket(zmq.PULL, sockets, FRONT_END, bind=True)
        self._combiner = open_socket(zmq.PUSH, sockets, COMBINER, bind=False)
        self._is_socket_due = True
        self._asleep = queues.asleep[_NAME]
        self._wanted = queues.wanted
        self._assigned = queues.assigned
        self._finished = queues.finished
        self._combined = queues.combined
        self._bells = {
            device: queues.bell(f"worker {device}", partial(self._nudge, device))
            for device in spec.devices
        }
        self._own_descriptors = queues.own_descriptors(_NAME)
        self._incarnations: dict[str, int] = {}
        self._by_identity: dict[bytes, str] = {}
        self._decode_ready = Decoder(Ready).decode
        self._decode_hello = Decoder(Hello | Ready).decode
        self._decode_outcome = Decoder(Combined | Unsure).decode
        self._inbox_decoder: Decoder[Combined | Unsure | CombinerHello] = Decoder(
            Combined | Unsure | CombinerHello
        )
        self._is_look_due = False
        for ring in (self._combined, *self._finished.values()):
            ring.skip()  # of a former front-end's rows

    def start(self, loop: asyncio.AbstractEventLoop, on_news: Callable[[], None]) -> None:
        """Have `on_news` called whenever there may be something to receive.

        Args:
            loop: the event loop.
            on_news: calls `receive`.
        """
        self._loop = loop
        self._on_news = on_news
        for fd in self._own_descriptors:
            loop.add_reader(fd, self._on_bell, fd)
        for socket in (self._router, self._inbox):
            loop.add_reader(descriptor(socket), self._on_socket)
        self._stay_awake()

    def close(self) -> None:
        """Close the sockets."""
        for socket in (self._router, self._inbox, self._combiner):
            socket.close()

    # -- out ----------------------------------------------------------------------------------

    def started(self, device: str, incarnation: int) -> None:
        """A device's worker is this process now."""
        self._incarnations[device] = incarnation
        self._by_identity[self._identity(device)] = device

    def forget(self, device: str) -> None:
        """A device's worker is dead: what it has left unread is dropped."""
        self._by_identity.pop(self._identity(device), None)
        self._incarnations.pop(device, None)

    def assign(self, device: str, message: Assign) -> bool:
        """Give jobs to a device's worker; False if its ring is full: then it gets none of them."""
        if not self._assigned[device].push(encode(message), self._incarnations.get(device, 0)):
            _log.warning("worker %s does not take its jobs", device)
            return False
        self._bells[device].ring_if_needed()
        return True

    def reset_worker(self, device: str) -> bool:
        """Tell a device's worker that this front-end is there; whether it could be told."""
        return self._send(device, encode(Reset(self._epoch)))

    def tell_combiner(self, message: ToCombiner) -> None:
        """Send the combiner a message."""
        self._combiner.send(encode(message))

    def want_ready(self, device: str, wanted: bool) -> None:
        """Say whether this process is to be woken when a device's worker has finished something.

        If not, it is read with whatever comes next.
        """
        cell = self._wanted[device]
        if cell[0] != wanted:
            cell[0] = wanted
            if wanted:
                fence()
                if not self._finished[device].is_empty:
                    self._stay_awake()

    def _identity(self, device: str) -> bytes:
        return f"{device}/{self._incarnations.get(device, 0)}".encode()

    def _nudge(self, device: str) -> None:
        """Wake a worker; one that is not there needs nothing, and others wake by themselves."""
        self._send(device, b"")

    def _send(self, device: str, payload: bytes) -> bool:
        self._is_socket_due = True  # sending may swallow what the descriptor would have told
        self._look_soon()
        try:
            self._router.send(self._identity(device), zmq.NOBLOCK | zmq.SNDMORE)
            self._router.send(payload, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            _log.warning("worker %s can't be reached: %s", device, error)
            return False
        return True

    # -- in -----------------------------------------------------------------------------------

    def receive(self) -> list[News]:
        """What has come, of processes that still are there.

        What a worker has finished comes before its Hello.
        """
        news = self._take()
        if not news and not self._asleep[0]:
            self._asleep[0] = 1
            fence()
            news = self._take()
        if news:
            self._stay_awake()
        return news

    def _take(self) -> list[News]:
        # What is said over ZeroMQ is received first and told last: so all that was in the rings
        # before it is told before it.
        hellos = self._take_from_sockets() if self._is_socket_due else []
        news: list[News] = []
        for device, ring in self._finished.items():
            for incarnation, payload in ring.pop(_MESSAGES_AT_ONCE):
                if incarnation == self._incarnations.get(device):
                    news.append((device, self._decode_ready(payload)))
        for _, payload in self._combined.pop(_MESSAGES_AT_ONCE):
            news.append(self._decode_outcome(payload))
        news += hellos
        return news

    def _take_from_sockets(self) -> list[News]:
        self._is_socket_due = False
        news: list[News] = [*drain(self._inbox, self._inbox_decoder)]
        while can_receive(self._router):
            identity = self._router.recv(zmq.NOBLOCK)
            payload = self._router.recv(zmq.NOBLOCK)
            device = self._by_identity.get(identity)
            if device is not None and payload:
                news.append((device, self._decode_hello(payload)))
        return news

    def _on_bell(self, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(fd)
        self._on_news()

    def _on_socket(self) -> None:
        self._is_socket_due = True
        self._on_news()

    def _stay_awake(self) -> None:
        self._asleep[0] = 0
        self._look_soon()

    def _look_soon(self) -> None:
        """Look in the next turn of the loop."""
        if not self._is_look_due:
            self._is_look_due = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._is_look_due = False
        self._on_news()
