"""The queues between processes: rings in one block of the shared memory, and bells that wake.

Used in every process. Payload lies in the arenas; the queues carry the small messages that refer to
it (`workers.runtime.messages`)::

    front-end --assigned[device]--> worker --predicted[device]--> combiner --combined--> front-end
                                    worker --finished[device]---> front-end

Every record of a worker's rings is tagged with the worker's incarnation: records for or from an
earlier one are dropped. Everything else, and what a ring has no space for, goes over ZeroMQ.

The block holds each process's `asleep` cell, each worker's `wanted` cell, then the rings; every
cell lies on a cache line of its own, and none has two writers.

A process that is about to sleep sets its `asleep` cell, looks at its rings once more, and waits. A
producer looks at the cell after it has pushed a record, and rings the bell only if it is set (as
virtio and io_uring suppress notifications)::

    consumer   asleep = 1 | fence | are the rings empty? | wait        | asleep = 0
    producer                record, tail | fence | asleep? | ring

At least one of the two sees what the other has stored. A bell is an eventfd, or an empty ZeroMQ
message. A bell that is lost (its ringer was killed just before) only costs time: every wait ends
after a timeout.
"""

from __future__ import annotations

import mmap
import os
import select
from collections.abc import Callable, Iterable, Sequence

from workers.runtime.rings import RING_HEADER_BYTES, Ring, fence
from workers.runtime.spec import InstanceSpec, QueuesSpec

__all__ = [
    "Bell",
    "Queues",
    "Sleeper",
    "make_eventfds",
    "max_job_rows",
    "queues_bytes",
    "ring_bytes",
]

_CACHE_LINE_BYTES = 64
_RINGS_PER_DEVICE = 3
_MIN_RING_BYTES = 1 << 16
#: The most that one row takes in a message: a range of its own, and the span of its request.
_ROW_BYTES = 48
_JOB_BYTES = 64


def make_eventfds(count: int) -> tuple[int, ...]:
    """Create eventfds that children inherit, or raise OSError; close them with `os.close`."""
    return tuple([os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(count)])


def ring_bytes(workers: Iterable[Sequence[InstanceSpec]]) -> int:
    """Return the ring capacity that fits all jobs of any worker: one per instance, two of one."""
    needed = _MIN_RING_BYTES
    for instances in workers:
        batches = [instance.batch for instance in instances]
        rows = sum(batches) + 2 * max(batches, default=0)
        needed = max(needed, rows * _ROW_BYTES + (len(batches) + 2) * _JOB_BYTES)
    return 1 << (needed - 1).bit_length()


def max_job_rows(ring_bytes: int) -> int:
    """Return the most rows of a job that always fits into an empty ring of this capacity."""
    return (ring_bytes - _JOB_BYTES) // _ROW_BYTES


def queues_bytes(spec: QueuesSpec) -> int:
    """Return the size of the block."""
    cells = (len(spec.processes) + len(spec.devices)) * _CACHE_LINE_BYTES
    rings = _RINGS_PER_DEVICE * len(spec.devices) + 1
    return cells + rings * (RING_HEADER_BYTES + spec.ring_bytes)


class Bell:
    """Wakes one process (`ring`: unconditionally); held by those that push into its rings."""

    def __init__(self, asleep: memoryview, ring: Callable[[], None]) -> None:
        self._asleep = asleep
        self.ring = ring

    def is_needed(self) -> bool:
        """Whether the process may sleep without having seen what was pushed just now."""
        fence()
        return bool(self._asleep[0])

    def ring_if_needed(self) -> None:
        """Wake the process if it sleeps."""
        if self.is_needed():
            self.ring()


class Sleeper:
    """The consumer's side of a bell, in a process that has nothing else to wait for.

    The `descriptors` end its sleep whenever they become readable (edge-triggered).
    """

    def __init__(
        self, asleep: memoryview, rings: Sequence[Ring], descriptors: Sequence[int]
    ) -> None:
        self._asleep = asleep
        self._rings = rings
        self._epoll = select.epoll()
        for descriptor in descriptors:
            self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLET)

    def wait(self, timeout_s: float) -> bool:
        """Sleep until there is something to do (true), or the timeout is over (false)."""
        if not self._is_idle():
            return True
        self._asleep[0] = 1
        fence()
        is_rung = self._is_idle() and self._epoll.poll(timeout_s)
        self._asleep[0] = 0
        return bool(is_rung) or not self._is_idle()

    def _is_idle(self) -> bool:
        return all([ring.is_empty for ring in self._rings])


class Queues:
    """One process's view of the block; spare slots are for devices that come later.

    Attributes:
        asleep: each process's cell, by its name; it alone writes it.
        wanted: by device, whether the sleeping front-end wants to be woken for finished jobs; the
            front-end writes it.
        assigned: by device, `Assign` from the front-end to the worker.
        finished: by device, `Ready` from the worker to the front-end.
        predicted: by device, `Predicted` from the worker to the combiner.
        combined: `Combined` and `Unsure` from the combiner to the front-end.
    """

    def __init__(self, buffer: mmap.mmap, spec: QueuesSpec) -> None:
        self._rest = memoryview(buffer)[spec.offset : spec.offset + queues_bytes(spec)]
        ring = RING_HEADER_BYTES + spec.ring_bytes
        self._asleep = [self._cell() for _ in spec.processes]
        self._bells = spec.bells
        self._wanted = [self._cell() for _ in spec.devices]
        self._rings = [
            tuple(self._slice(ring) for _ in range(_RINGS_PER_DEVICE)) for _ in spec.devices
        ]
        self.combined = Ring(self._slice(ring))
        self.asleep: dict[str, memoryview] = {}
        self.wanted: dict[str, memoryview] = {}
        self.assigned: dict[str, Ring] = {}
        self.finished: dict[str, Ring] = {}
        self.predicted: dict[str, Ring] = {}
        self._eventfds: dict[str, int] = {}
        for position, name in enumerate(spec.processes):
            self._add_process(name, position)
        for slot, device in enumerate(spec.devices):
            if device:
                self._add_device(device, slot)

    def attach(self, device: str, slot: int) -> None:
        """A new device's worker takes a spare slot."""
        self._add_process(f"worker {device}", len(self._asleep) - len(self._wanted) + slot)
        self._add_device(device, slot)

    def detach(self, device: str) -> None:
        """A device is gone, and its slot is spare again."""
        for by_device in (self.wanted, self.assigned, self.finished, self.predicted):
            del by_device[device]
        name = f"worker {device}"
        del self.asleep[name]
        self._eventfds.pop(name, None)

    def _add_process(self, name: str, position: int) -> None:
        if name:
            self.asleep[name] = self._asleep[position]
            if self._bells:
                self._eventfds[name] = self._bells[position]

    def _add_device(self, device: str, slot: int) -> None:
        self.wanted[device] = self._wanted[slot]
        assigned, finished, predicted = self._rings[slot]
        self.assigned[device] = Ring(assigned)
        self.finished[device] = Ring(finished)
        self.predicted[device] = Ring(predicted)

    def bell(self, process: str, ring: Callable[[], None]) -> Bell:
        """Return the bell of a process; `ring` wakes it over ZeroMQ where eventfds are missing."""
        eventfd = self._eventfds.get(process)
        if eventfd is None:
            return Bell(self.asleep[process], ring)

        def write() -> None:
            os.eventfd_write(eventfd, 1)

        return Bell(self.asleep[process], write)

    def own_descriptors(self, process: str) -> tuple[int, ...]:
        """Return the descriptors that end a process's sleep, apart from its sockets."""
        eventfd = self._eventfds.get(process)
        return () if eventfd is None else (eventfd,)

    def _slice(self, nbytes: int) -> memoryview:
        part, self._rest = self._rest[:nbytes], self._rest[nbytes:]
        return part

    def _cell(self) -> memoryview:
        return self._slice(_CACHE_LINE_BYTES).cast("q")
