"""The shared memory and its board of process states.

Used in every process. The supervisor creates the memory, children inherit its file descriptor.
It is anonymous (`memfd`, or an unlinked temporary file where that is missing): nothing appears
under /dev/shm, and nothing is left behind after a kill -9.

Layout: the board, one row of 8-byte cells per process, then the arenas one after another.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time

from workers.runtime.spec import MemorySpec

__all__ = ["BOARD_CELLS", "BoardRow", "SharedMemory", "board_bytes", "create_memory"]

#: Cells of a process on the board; a full cache line, so that writers don't disturb each other.
BOARD_CELLS = 8
_BEAT, _EXECUTING, _LIMIT, _PID, _STARTS = range(5)


def board_bytes(processes: int) -> int:
    """Size of the board for that many processes, in bytes (a multiple of the page size)."""
    page = mmap.PAGESIZE
    return -(-processes * BOARD_CELLS * 8 // page) * page


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
    """What one process publishes about itself; it alone writes, the supervisor reads.

    - beat: when its loop last went round, monotonic ns;
    - executing: the job it is running, or the user's rule (`workers.combiner.rule_guard`); 0 when
    idle;
    - limit: when that job counts as hung, monotonic ns.

    Two cells are the supervisor's, for the front-end's metrics:

    - pid: of the process, 0 if none is there;
    - starts: how many there were.
    """

    def __init__(self, cells: memoryview) -> None:
        self._cells = cells

    def beat(self) -> None:
        """Say that the loop went round."""
        self._cells[_BEAT] = time.monotonic_ns()

    def begin(self, job: int, limit_ns: int) -> None:
        """Say that this job, or rule, is being executed, and when it counts as hung."""
        self._cells[_LIMIT] = limit_ns
        self._cells[_EXECUTING] = job

    def end(self, now_ns: int) -> None:
        """Say that nothing is being executed; the loop has come round."""
        self._cells[_BEAT] = now_ns
        self._cells[_EXECUTING] = 0

    def clear(self) -> None:
        """Forget a former incarnation (written by the supervisor while no process is there)."""
        self._cells[_EXECUTING] = 0
        self._cells[_BEAT] = 0

    def note_start(self, pid: int) -> None:
        """Say which process was started."""
        self._cells[_PID] = pid
        self._cells[_STARTS] += 1

    def note_end(self) -> None:
        """Say that the process was waited for."""
        self._cells[_PID] = 0

    @property
    def pid(self) -> int:
        """The process that is there, 0 if none."""
        return int(self._cells[_PID])

    @property
    def starts(self) -> int:
        """How many processes were started so far."""
        return int(self._cells[_STARTS])

    @property
    def has_begun(self) -> bool:
        """Whether its loop has ever gone round: before, it holds nothing."""
        return bool(self._cells[_BEAT])

    @property
    def executing(self) -> int:
        """What is being executed, 0 if nothing."""
        return int(self._cells[_EXECUTING])

    def is_hung(self, now_ns: int, beat_limit_ns: int) -> bool:
        """Whether the process overran its job's limit or, idle, missed its beats.

        A process that has never beaten is still starting: that has a deadline of its own.
        """
        beat = self._cells[_BEAT]
        if beat == 0:
            return False
        if self._cells[_EXECUTING]:
            return bool(now_ns > self._cells[_LIMIT])
        return bool(now_ns - beat > beat_limit_ns)


class SharedMemory:
    """The mapping of a `MemorySpec` in this process."""

    def __init__(self, spec: MemorySpec) -> None:
        self.spec = spec
        self.buffer = mmap.mmap(spec.fd, spec.nbytes)
        self._board = memoryview(self.buffer)[: board_bytes(len(spec.processes))].cast("q")

    def board(self, process: str) -> BoardRow:
        """The row of the process with that name."""
        first = self.spec.processes.index(process) * BOARD_CELLS
        return BoardRow(self._board[first : first + BOARD_CELLS])
