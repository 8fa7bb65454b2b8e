"""All messages between the front-end and the other processes: rings, bells and ZeroMQ sockets.

Runs in the front-end's event loop. `Assign` and messages to the combiner flow out; `Hello`,
`Ready`, `Combined`, `Unsure` and `CombinerHello` flow in, whenever `receive` is called.

The loop can't tell when it is about to sleep. So the front-end is awake from the first message on
and polls in every turn of the loop; at the first poll that finds nothing it declares itself asleep,
and polls once more (`workers.runtime.queues`). Under load hardly a bell is rung.
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
from workers.runtime.queues import Bell, Queues
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

__all__ = ["Links", "Report"]

_log = logging.getLogger(__name__)
_NAME = "front-end"
_MESSAGES_AT_ONCE = 64

#: What arrives: of a device's worker, with the device's name, or of the combiner.
Report = tuple[str, Hello | Ready] | Combined | Unsure | CombinerHello


class Links:
    """The front-end's ends of all queues."""

    def __init__(self, *, memory: SharedMemory, sockets: str, epoch: int) -> None:
        self._queues = queues = Queues(memory.buffer, memory.spec.queues)
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
        self._bells = {device: self._bell(device) for device in self._assigned}
        self._own_descriptors = queues.own_descriptors(_NAME)
        self._incarnations: dict[str, int] = {}
        self._by_identity: dict[bytes, str] = {}
        self._decode_ready = Decoder(Ready).decode
        self._decode_hello = Decoder(Hello | Ready).decode
        self._decode_outcome = Decoder(Combined | Unsure).decode
        self._inbox_decoder: Decoder[Combined | Unsure | CombinerHello] = Decoder(
            Combined | Unsure | CombinerHello
        )
        self._is_poll_due = False
        for ring in (self._combined, *self._finished.values()):
            ring.skip()  # of a former front-end's rows

    def start(self, loop: asyncio.AbstractEventLoop, on_reports: Callable[[], None]) -> None:
        """Have `on_reports` called whenever there may be something to receive."""
        self._loop = loop
        self._on_reports = on_reports
        for fd in self._own_descriptors:
            loop.add_reader(fd, self._on_bell, fd)
        for socket in (self._router, self._inbox):
            loop.add_reader(descriptor(socket), self._on_socket)
        self._stay_awake()

    def close(self) -> None:
        """Close the sockets."""
        for socket in (self._router, self._inbox, self._combiner):
            socket.close()

    def attach(self, device: str, slot: int) -> None:
        """A new device's worker takes a spare slot of the queues."""
        self._queues.attach(device, slot)
        self._finished[device].skip()  # what a worker in that slot has left
        self._bells[device] = self._bell(device)

    def detach(self, device: str) -> None:
        """A device is gone, and its slot is spare again."""
        self._queues.detach(device)
        del self._bells[device]

    def _bell(self, device: str) -> Bell:
        return self._queues.bell(f"worker {device}", partial(self._nudge, device))

    # -- out ----------------------------------------------------------------------------------

    def started(self, device: str, incarnation: int) -> None:
        """A device's worker is a new process."""
        self._incarnations[device] = incarnation
        self._by_identity[self._identity(device)] = device

    def forget(self, device: str) -> None:
        """A device's worker is dead: what it has sent and was not read is dropped."""
        self._by_identity.pop(self._identity(device), None)
        self._incarnations.pop(device, None)

    def assign(self, device: str, message: Assign) -> int:
        """Send jobs to a device's worker; returns how many: the others have no space in its ring.

        All of them may be more than fits into it.
        """
        sent = self._push(device, message)
        if sent < len(message.jobs):
            _log.warning("worker %s does not read its jobs", device)
        if sent:
            self._bells[device].ring_if_needed()
        return sent

    def _push(self, device: str, message: Assign) -> int:
        jobs = message.jobs
        if self._assigned[device].push(encode(message), self._incarnations.get(device, 0)):
            return len(jobs)
        half = len(jobs) // 2
        if not half or (sent := self._push(device, Assign(message.epoch, jobs[:half]))) < half:
            return sent if half else 0
        return half + self._push(device, Assign(message.epoch, jobs[half:]))

    def reset_worker(self, device: str) -> bool:
        """Ask a device's worker to start afresh for this front-end; whether it can be reached."""
        return self._send(device, encode(Reset(self._epoch)))

    def send_to_combiner(self, message: ToCombiner) -> None:
        """Send the combiner a message."""
        self._combiner.send(encode(message))

    def want_ready(self, device: str, wanted: bool) -> None:
        """Set whether a device's worker wakes this process when it has finished something.

        If not, its report is read with whatever arrives next.
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
        """Wake a worker through its socket; one that is gone needs no wakeup."""
        self._send(device, b"")

    def _send(self, device: str, payload: bytes) -> bool:
        self._is_socket_due = True  # sending may consume what the descriptor would signal
        self._poll_soon()
        try:
            self._router.send(self._identity(device), zmq.NOBLOCK | zmq.SNDMORE)
            self._router.send(payload, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            _log.warning("worker %s can't be reached: %s", device, error)
            return False
        return True

    # -- in -----------------------------------------------------------------------------------

    def receive(self) -> list[Report]:
        """Return reports of live processes; a worker's finished jobs come before its Hello."""
        reports = self._poll()
        if not reports and not self._asleep[0]:
            self._asleep[0] = 1
            fence()
            reports = self._poll()
        if reports:
            self._stay_awake()
        return reports

    def _poll(self) -> list[Report]:
        # Sockets are read first and returned last, so all that was in the rings before a message
        # over ZeroMQ is returned before it.
        hellos = self._poll_sockets() if self._is_socket_due else []
        reports: list[Report] = []
        for device, ring in self._finished.items():
            for incarnation, payload in ring.pop(_MESSAGES_AT_ONCE):
                if incarnation == self._incarnations.get(device):
                    reports.append((device, self._decode_ready(payload)))
        for _, payload in self._combined.pop(_MESSAGES_AT_ONCE):
            reports.append(self._decode_outcome(payload))
        reports += hellos
        return reports

    def _poll_sockets(self) -> list[Report]:
        self._is_socket_due = False
        reports: list[Report] = [*drain(self._inbox, self._inbox_decoder)]
        while can_receive(self._router):
            identity = self._router.recv(zmq.NOBLOCK)
            payload = self._router.recv(zmq.NOBLOCK)
            device = self._by_identity.get(identity)
            if device is not None and payload:
                reports.append((device, self._decode_hello(payload)))
        return reports

    def _on_bell(self, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(fd)
        self._on_reports()

    def _on_socket(self) -> None:
        self._is_socket_due = True
        self._on_reports()

    def _stay_awake(self) -> None:
        self._asleep[0] = 0
        self._poll_soon()

    def _poll_soon(self) -> None:
        """Poll in the next turn of the loop."""
        if not self._is_poll_due:
            self._is_poll_due = True
            self._loop.call_soon(self._on_poll)

    def _on_poll(self) -> None:
        self._is_poll_due = False
        self._on_reports()
