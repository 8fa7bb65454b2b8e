"""The shared memory and the board in it, where processes publish their state.

Used in every process. The supervisor creates the memory, children inherit its file descriptor.
It is anonymous (`memfd`, or an unlinked temporary file where that is missing): nothing appears
under /dev/shm, and nothing is left behind after a kill -9.

Layout: the board, one row of 8-byte cells per process, then the queues, for the server's life; then
the arenas of each generation, for which the file grows, and which are cut out of it once they are
not needed any more.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import time

from workers.runtime.spec import GenerationSpec, MemorySpec

__all__ = [
    "BOARD_CELLS",
    "BoardRow",
    "SharedMemory",
    "add_range",
    "board_bytes",
    "create_memory",
    "cut_out",
]

#: Cells of a process on the board: a full cache line, against false sharing.
BOARD_CELLS = 8
_BEAT, _EXECUTING, _LIMIT, _PID, _STARTS, _EXCUSED = range(6)


def board_bytes(processes: int) -> int:
    """Return the size of the board for that many processes, a multiple of the page size."""
    return _whole_pages(processes * BOARD_CELLS * 8)


def create_memory(nbytes: int) -> int:
    """Create anonymous shared memory of `nbytes` and return its file descriptor.

    Raises:
        OSError: if the system refuses it.
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("ensembled", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, nbytes)
    return fd


class BoardRow:
    """The published state of one process; it alone writes, the supervisor reads.

    - beat: when its loop last went round, monotonic ns;
    - executing: the job, or the user's rule (`workers.combiner.rule_guard`), that it runs; 0 if
      idle;
    - limit: when that counts as hung, monotonic ns;
    - excused: until when it counts as hung in no case, monotonic ns: a thread of it that loads may
      hold the interpreter's lock for long.

    Two cells are written by the supervisor, for the front-end's metrics:

    - pid: of the process, 0 if there is none;
    - starts: how many there were.
    """

    def __init__(self, cells: memoryview) -> None:
        self._cells = cells

    def beat(self) -> None:
        """Record that the loop went round."""
        self._cells[_BEAT] = time.monotonic_ns()

    def begin(self, job: int, limit_ns: int) -> None:
        """Record that a job, or a rule, is being executed, and when it counts as hung."""
        self._cells[_LIMIT] = limit_ns
        self._cells[_EXECUTING] = job

    def end(self, now_ns: int) -> None:
        """Record that nothing is being executed, and a beat."""
        self._cells[_BEAT] = now_ns
        self._cells[_EXECUTING] = 0

    def excuse(self, seconds: float) -> None:
        """Record that neither beats nor limits count for so long."""
        self._cells[_EXCUSED] = time.monotonic_ns() + int(seconds * 1e9)

    def clear(self) -> None:
        """Reset what an earlier incarnation wrote (by the supervisor, while there is none)."""
        self._cells[_EXCUSED] = 0
        self._cells[_EXECUTING] = 0
        self._cells[_BEAT] = 0

    def record_start(self, pid: int) -> None:
        """Record that a process was started."""
        self._cells[_PID] = pid
        self._cells[_STARTS] += 1

    def record_exit(self) -> None:
        """Record that the process has been reaped."""
        self._cells[_PID] = 0

    def erase(self) -> None:
        """Reset everything: the row is that of another process from now on."""
        self._cells[:] = memoryview(bytes(len(self._cells) * 8)).cast("q")

    @property
    def pid(self) -> int:
        """The running process, 0 if there is none."""
        return int(self._cells[_PID])

    @property
    def starts(self) -> int:
        """How many processes were started so far."""
        return int(self._cells[_STARTS])

    @property
    def has_begun(self) -> bool:
        """Whether its loop has ever gone round: before, it holds no work."""
        return bool(self._cells[_BEAT])

    @property
    def executing(self) -> int:
        """The job, or rule, that is being executed, 0 if none."""
        return int(self._cells[_EXECUTING])

    def is_hung(self, now_ns: int, beat_limit_ns: int) -> bool:
        """Whether the process overran its job's limit or, idle, missed its beats.

        A process that has never beaten is still starting, which has a deadline of its own.
        """
        beat = self._cells[_BEAT]
        if beat == 0 or now_ns < self._cells[_EXCUSED]:
            return False
        if self._cells[_EXECUTING]:
            return bool(now_ns > self._cells[_LIMIT])
        return bool(now_ns - beat > beat_limit_ns)


class SharedMemory:
    """The mapping in this process of what a `MemorySpec` has for the server's life."""

    def __init__(self, spec: MemorySpec) -> None:
        self.spec = spec
        self.buffer = mmap.mmap(spec.fd, spec.nbytes)
        self._board = memoryview(self.buffer)[: board_bytes(len(spec.processes))].cast("q")

    def board(self, process: str) -> BoardRow:
        """Return the row of the process with that name."""
        first = self.spec.processes.index(process) * BOARD_CELLS
        return BoardRow(self._board[first : first + BOARD_CELLS])

    def attach(self, device: str, slot: int) -> None:
        """A new device's worker takes a spare row of the board."""
        self.spec = self.spec.with_device(slot, device)

    def detach(self, device: str) -> None:
        """A device is gone, and its worker's row is spare again."""
        self.spec = self.spec.with_device(self.spec.queues.devices.index(device), "")

    def map(self, generation: GenerationSpec) -> mmap.mmap:
        """Map the arenas of a generation; unmapped when nothing refers to the mapping."""
        return mmap.mmap(self.spec.fd, generation.nbytes, offset=generation.offset)


def add_range(fd: int, nbytes: int) -> tuple[int, int]:
    """Let the memory grow by zeros; return where these begin and how many they are, in bytes.

    Both are multiples of the page size, at least as many as asked for.

    Raises:
        OSError: if the system refuses it.
    """
    offset, size = _whole_pages(os.fstat(fd).st_size), _whole_pages(nbytes)
    os.ftruncate(fd, offset + size)
    return offset, size


def cut_out(fd: int, offset: int, nbytes: int) -> None:
    """Return the memory of a range that no process uses any more to the system."""
    with mmap.mmap(fd, nbytes, offset=offset) as part, contextlib.suppress(OSError, AttributeError):
        part.madvise(mmap.MADV_REMOVE)  # where that is unknown, it stays in the file


def _whole_pages(nbytes: int) -> int:
    return -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
