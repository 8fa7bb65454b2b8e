"""Loads and unloads generations in a thread, while a process's loop serves others.

Runs in workers and in the combiner. Commands flow from the loop to the thread, one after another.
What the thread has built flows back to the loop, which alone uses it; reports flow to the
supervisor. Runtimes release the interpreter's lock while they load. What does not, such as the
import of a library, gives it up every `_SWITCH_S`, or holds it so long that beats are missed, which
is excused.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from workers.runtime.bootstrap import StatusChannel
from workers.runtime.importing import describe_failure
from workers.runtime.mailbox import Mailbox
from workers.runtime.memory import BoardRow
from workers.runtime.spec import Load, Loaded, Unloaded
from workers.runtime.texts import abridge

__all__ = ["Builder", "Built", "LoadFailed", "Loader"]

#: For the load of one model; and for the loop, after the thread has held it up.
_EXCUSED_S, _GRACE_S = 120.0, 5.0
#: Of the interpreter's lock, while a generation is loaded.
_SWITCH_S = 0.0005
#: Below the loop, which has a third of its thread's share of a core that both need.
_NICE = 5
_MAX_ERROR_BYTES = 8000

_PartT_co = TypeVar("_PartT_co", covariant=True)
_T = TypeVar("_T")


class LoadFailed(Exception):
    """A generation can't be served; the text is one line that names what is wrong."""


class Builder(Protocol[_PartT_co]):
    """Loads and unloads; the thread alone calls it, after the start."""

    def load(self, command: Load, goes_on: Callable[[], bool]) -> _PartT_co:
        """Return what the loop needs to serve a generation, too.

        `goes_on` is asked before each step whether the result is still wanted.

        Raises:
            LoadFailed: if it can't be served, or is not wanted any more; nothing of it is left.
        """
        ...

    def unload(self, generation: int) -> None:
        """Release what only that generation needs; the loop has forgotten it."""
        ...


class Built(Generic[_T]):
    """A generation for the loop."""

    def __init__(self, generation: int, part: _T) -> None:
        self.generation = generation
        self.part = part


class Loader(Generic[_T]):
    """The loop's handle of the thread, which exists only while there is something to do.

    What was built is put into `mailbox` as `Built`; everything else is reported on `status`. A
    lower priority is inherited by threads that a runtime makes for later runs, which can't raise
    it: `lowers_priority` is for processes whose runtimes compute in one thread.
    """

    def __init__(
        self,
        builder: Builder[_T],
        mailbox: Mailbox[Any],
        board: BoardRow,
        status: StatusChannel,
        *,
        lowers_priority: bool,
    ) -> None:
        self._builder = builder
        self._mailbox = mailbox
        self._board = board
        self._status = status
        self._lowers_priority = lowers_priority
        self._wanted: set[int] = set()
        self._tasks: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._is_running = False
        self._switch_s = sys.getswitchinterval()

    def load(self, command: Load) -> None:
        """Have a generation built; unless it fails, the loop reports it once it serves it."""
        self._wanted.add(command.generation.number)
        self._submit(partial(self._load, command))

    def unload(self, generation: int) -> None:
        """Have a generation unloaded, which the loop has forgotten, or never got, and report it."""
        self._wanted.discard(generation)
        self._submit(partial(self._unload, generation))

    def refuse(self, generation: int, error: str) -> None:
        """Have a generation unloaded that the loop can't serve, and report the error."""
        self._wanted.discard(generation)
        self._submit(partial(self._refuse, generation, error))

    def is_wanted(self, generation: int) -> bool:
        """Whether a generation has not been unloaded since its load."""
        return generation in self._wanted

    @contextlib.contextmanager
    def excused(self) -> Iterator[None]:
        """The process may be without a beat within."""
        self._board.excuse(_EXCUSED_S)
        yield
        if not self._is_running:
            self._board.excuse(_GRACE_S)

    def _submit(self, task: Callable[[], None]) -> None:
        with self._lock:
            self._tasks.append(task)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="loader", daemon=True).start()

    # -- in the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        if self._lowers_priority:
            os.nice(_NICE)  # on Linux, of this thread alone
        while (task := self._next()) is not None:
            task()

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            if self._tasks:
                sys.setswitchinterval(_SWITCH_S)
                self._board.excuse(_EXCUSED_S)
                return self._tasks.popleft()
            self._is_running = False
            sys.setswitchinterval(self._switch_s)
            self._board.excuse(_GRACE_S)
            return None

    def _load(self, command: Load) -> None:
        generation = command.generation.number

        def goes_on() -> bool:
            self._board.excuse(_EXCUSED_S)
            return generation in self._wanted

        try:
            part = self._builder.load(command, goes_on)
        except Exception as failure:  # of memory, for instance
            is_known = isinstance(failure, LoadFailed)
            if generation in self._wanted:
                error = str(failure) if is_known else describe_failure(failure)
                self._report_failure(generation, error)
        else:
            self._mailbox.put(Built(generation, part))

    def _unload(self, generation: int) -> None:
        self._builder.unload(generation)
        self._status.send(Unloaded(generation))

    def _refuse(self, generation: int, error: str) -> None:
        self._builder.unload(generation)
        self._report_failure(generation, error)

    def _report_failure(self, generation: int, error: str) -> None:
        self._status.send(Loaded(generation, abridge(error, _MAX_ERROR_BYTES)))
