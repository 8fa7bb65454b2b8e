"""The queues between the processes: rings and bells in one block of the shared memory.

Used in every process. The payload of requests lies in the arenas; here are the small messages that
speak of it (`workers.runtime.messages`)::

    front-end --assigned[device]--> worker --predicted[device]--> combiner --combined--> front-end
                                    worker --finished[device]---> front-end

Every record of a worker's rings carries the worker's incarnation: what was meant for a former one,
or comes from it, is dropped. All else, and what has no room, goes over ZeroMQ.

The block: each process's `asleep` cell, each worker's `wanted` cell, then the rings; every cell on
a cache line of its own, and none with two writers.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Sequence

from workers.runtime.bells import Bell, ring_eventfd
from workers.runtime.rings import RING_HEADER_BYTES, Ring
from workers.runtime.spec import InstanceSpec, QueuesSpec

__all__ = ["Queues", "queues_bytes", "ring_bytes"]

_LINE = 64
_RINGS_PER_DEVICE = 3
_LEAST_BYTES = 1 << 16
#: Of one row in a message, at most: a range of its own, and the span of its request.
_ROW_BYTES = 48
_JOB_BYTES = 64


def ring_bytes(workers: Iterable[Sequence[InstanceSpec]]) -> int:
    """The capacity of a ring, so that all jobs that any worker may hold have room.

    Args:
        workers: the instances of each. It holds one job of each, and two of one, at most.
    """
    needed = _LEAST_BYTES
    for instances in workers:
        batches = [instance.batch for instance in instances]
        rows = sum(batches) + 2 * max(batches, default=0)
        needed = max(needed, rows * _ROW_BYTES + (len(batches) + 2) * _JOB_BYTES)
    return 1 << (needed - 1).bit_length()


def queues_bytes(spec: QueuesSpec) -> int:
    """The size of the block."""
    cells = (len(spec.processes) + len(spec.devices)) * _LINE
    rings = _RINGS_PER_DEVICE * len(spec.devices) + 1
    return cells + rings * (RING_HEADER_BYTES + spec.ring_bytes)


class Queues:
    """One process's view of the block.

    Args:
        buffer: the shared memory that it lies in.
        spec: of the block.

    Attributes:
        asleep: by process, its cell; it alone writes it.
        wanted: by device, whether the front-end sleeps and is to be woken for what is finished
            there; the front-end writes it.
        assigned: by device, `Assign` from the front-end to the worker.
        finished: by device, `Ready` from the worker to the front-end.
        predicted: by device, `Predicted` from the worker to the combiner.
        combined: `Combined` and `Unsure` from the combiner to the front-end.
    """

    def __init__(self, buffer: mmap.mmap, spec: QueuesSpec) -> None:
        self._rest = memoryview(buffer)[spec.offset : spec.offset + queues_bytes(spec)]
        ring = RING_HEADER_BYTES + spec.ring_bytes
        self.asleep = {name: self._cell() for name in spec.processes}
        self._descriptors = dict(zip(spec.processes, spec.bells, strict=False))
        self.wanted = {device: self._cell() for device in spec.devices}
        self.assigned = {device: Ring(self._take(ring)) for device in spec.devices}
        self.finished = {device: Ring(self._take(ring)) for device in spec.devices}
        self.predicted = {device: Ring(self._take(ring)) for device in spec.devices}
        self.combined = Ring(self._take(ring))

    def bell(self, process: str, ring: Callable[[], None]) -> Bell:
        """How to wake a process.

        Args:
            process: its name.
            ring: wakes it over ZeroMQ, if that is what rings.
        """
        descriptor = self._descriptors.get(process)
        return Bell(self.asleep[process], ring if descriptor is None else ring_eventfd(descriptor))

    def own_descriptors(self, process: str) -> tuple[int, ...]:
        """What ends a process's sleep, apart from its sockets."""
        descriptor = self._descriptors.get(process)
        return () if descriptor is None else (descriptor,)

    def _take(self, nbytes: int) -> memoryview:
        taken, self._rest = self._rest[:nbytes], self._rest[nbytes:]
        return taken

    def _cell(self) -> memoryview:
        return self._take(_LINE).cast("q")
