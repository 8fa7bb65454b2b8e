"""A ring in shared memory: a queue of byte records from one producer process to one consumer.

Used in every process; pure but for `fence`. Layout, with one writer per cell and each cell on a
cache line of its own::

    0        64       128                                              128 + capacity
    +--------+--------+-----------------------------------------------+
    | head   | tail   |   ... | length, tag, payload | length, tag ... |
    +--------+--------+-----------------------------------------------+
     consumer producer

Head and tail are byte positions that only grow; what lies between them, modulo the capacity, is
unread. A record is written before the tail moves past it, and copied out before the head moves past
it. A process may therefore be killed between any two stores: a record is there as a whole or not at
all, and a successor continues from the head and the tail in the memory.

Python has no memory fences. Acquiring and releasing an uncontended lock uses atomic instructions,
which are full fences on x86, where stores are not reordered with stores nor loads with loads. On
Arm they order what CPython's lock orders, which is formally less than what is needed here. No
process therefore relies on a fence for ever: a sleeping one looks at its rings from time to time.
"""

from __future__ import annotations

import struct
import threading

__all__ = ["RING_HEADER_BYTES", "Ring", "fence"]

#: Head and tail, before the records.
RING_HEADER_BYTES = 128
_HEAD, _TAIL = 0, 8
_RECORD = struct.Struct("<II")
_ALIGNMENT = 8

_lock = threading.Lock()


def fence() -> None:
    """Order all earlier stores before all later loads and stores, as far as CPython can."""
    with _lock:
        pass


class Ring:
    """One process's view of a ring, as its producer or its consumer.

    Args:
        buffer: the ring's part of the shared memory, zeros at first: `RING_HEADER_BYTES` and its
            capacity, a multiple of 8.
    """

    def __init__(self, buffer: memoryview) -> None:
        self._cells = buffer[:RING_HEADER_BYTES].cast("q")
        self._data = buffer[RING_HEADER_BYTES:]
        self.capacity = len(self._data)

    def push(self, payload: bytes, tag: int = 0) -> bool:
        """Append a record, tagged with its sender or receiver; return whether there was space."""
        cells, capacity = self._cells, self.capacity
        tail = cells[_TAIL]
        record = _RECORD.pack(len(payload), tag) + payload
        size = len(record)
        after = tail + size + -size % _ALIGNMENT
        if after - cells[_HEAD] > capacity:
            return False
        start = tail % capacity
        stop = start + size
        if stop <= capacity:
            self._data[start:stop] = record
        else:
            cut = capacity - start
            self._data[start:] = record[:cut]
            self._data[: stop - capacity] = record[cut:]
        fence()
        cells[_TAIL] = after
        return True

    @property
    def is_empty(self) -> bool:
        """Whether nothing is unread."""
        cells = self._cells
        return bool(cells[_HEAD] == cells[_TAIL])

    def pop(self, limit: int = 256) -> list[tuple[int, bytes]]:
        """Remove and return the unread records, at most `limit`, each as (tag, payload)."""
        cells = self._cells
        head, tail = cells[_HEAD], cells[_TAIL]
        records: list[tuple[int, bytes]] = []
        if head == tail:
            return records
        fence()
        unread, start = self._read(head, tail), 0
        while start < len(unread) and len(records) < limit:
            size, tag = _RECORD.unpack_from(unread, start)
            start += _RECORD.size
            records.append((tag, unread[start : start + size]))
            start += size + -size % _ALIGNMENT
        fence()
        cells[_HEAD] = head + start
        return records

    def skip(self) -> None:
        """Discard everything unread, as left by an earlier consumer."""
        self._cells[_HEAD] = self._cells[_TAIL]

    def _read(self, first: int, last: int) -> bytes:
        start = first % self.capacity
        stop = start + last - first
        if stop <= self.capacity:
            return bytes(self._data[start:stop])
        return bytes(self._data[start:]) + bytes(self._data[: stop - self.capacity])
