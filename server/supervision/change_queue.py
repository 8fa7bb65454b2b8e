"""The queue of requested changes: one at a time, each planned, then made.

Runs in the supervisor. Requests of clients (`Ask`), of signals and of the supervisor itself flow
in, a `ChangeResult` each flows out. Planning runs in a thread: children are looked after meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import msgspec

from server.control import Answer, Ask, ChangeRequest, ChangeResult, PlaceRequest, ReloadRequest
from server.deployment.plan import DeploymentPlan
from server.errors import ConfigError, StartError
from server.inference.spec import ChangeCounts, DeploymentSpec
from server.supervision.changes import Change, ChangePlanner
from server.supervision.live import LiveDeployments
from server.supervision.processes import Processes
from server.supervision.transaction import ChangeFailed, Transaction
from workers.runtime.child_process import log_stdout

__all__ = ["ChangeQueue"]

_log = logging.getLogger(__name__)
_MAX_WAITING = 32
_STOPPING = "the server is stopping"

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Waiting:
    """A request, who waits for its result, and what was served when its turn came."""

    request: ChangeRequest
    result: asyncio.Future[ChangeResult]
    former: DeploymentSpec | None = None


class ChangeQueue:
    """Changes what is served, as requests ask for it; `on_change` is told of what then is."""

    def __init__(
        self,
        planner: ChangePlanner,
        transaction: Transaction,
        processes: Processes,
        live: LiveDeployments,
        on_change: Callable[[DeploymentPlan], None],
    ) -> None:
        self._planner = planner
        self._transaction = transaction
        self._processes = processes
        self._live = live
        self._on_change = on_change
        self._waiting: deque[_Waiting] = deque()
        self._making: _Waiting | None = None
        self._arrived = asyncio.Event()
        self._is_closed = False
        self._counts = ChangeCounts()
        self._answers: set[asyncio.Task[None]] = set()

    def answer(self, ask: Ask) -> None:
        """Have a client's request answered, in the end, whatever becomes of it."""

        async def reply() -> None:
            result = await self.submit(ask.request)
            self._processes.front_end.write(Answer(ask.id, result))

        task = asyncio.create_task(reply())
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    def submit(self, request: ChangeRequest) -> asyncio.Future[ChangeResult]:
        """Add a request; what equals the last one that waits has its result in common with it."""
        if self._waiting and self._waiting[-1].request == request:
            return self._waiting[-1].result
        result: asyncio.Future[ChangeResult] = asyncio.get_running_loop().create_future()
        if self._is_closed:
            result.set_result(self._result(error=_STOPPING))
        elif len(self._waiting) >= _MAX_WAITING:
            result.set_result(self._result(error=f"{_MAX_WAITING} changes are waiting"))
        else:
            self._waiting.append(_Waiting(request, result))
            self._arrived.set()
        return result

    def close(self) -> None:
        """Make no further change, and undo one that has not come to the switch."""
        self._is_closed = True
        self._transaction.undo(_STOPPING)
        if self._making is not None and self._live.current is self._making.former:
            self._decide(self._making, self._result(error=_STOPPING))
        for waiting in self._waiting:
            self._decide(waiting, self._result(error=_STOPPING))
        self._waiting.clear()
        self._arrived.set()

    async def run(self) -> None:
        """Make one change after another, until the queue is closed."""
        while not self._is_closed:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                self._making = replace(self._waiting.popleft(), former=self._live.current)
                result = await self._change(self._making.request)
                self._decide(self._making, result)
                self._making = None

    def _decide(self, waiting: _Waiting, result: ChangeResult) -> None:
        """Tell what becomes of a change, unless that has been told."""
        if not waiting.result.done():
            waiting.result.set_result(result)
            if not _is_dry_run(waiting.request):
                self._note(result)

    def _note(self, result: ChangeResult) -> None:
        """Log and count what has become of a change."""
        for line in result.error.splitlines():
            _log.error("nothing is changed: %s", line)
        if not result.error:
            _log.info("generation %d is served", result.generation)
        which = "refused" if result.is_wrong else "failed" if result.error else "succeeded"
        counts = self._counts
        self._counts = msgspec.structs.replace(
            counts, error=result.error, **{which: getattr(counts, which) + 1}
        )
        self._processes.report_changes(self._counts)

    async def _change(self, request: ChangeRequest) -> ChangeResult:
        """Make a change; what became of it."""
        try:
            change = await _in_thread(partial(self._plan, request))
            if _is_dry_run(request):
                return self._result(change.lines)
            await self._make(change)
            result = self._result(change.lines)
        except ConfigError as error:
            result = self._result(error=str(error), is_wrong=True)
        except (ChangeFailed, StartError, OSError) as error:
            result = self._result(error=str(error))
        except Exception as error:  # a bug of ours must not end the task that makes all changes
            _log.exception("a change failed")
            result = self._result(error=f"{type(error).__name__}: {error}")
        if result.error:
            await _in_thread(self._planner.give_up)
        return result

    def _plan(self, request: ChangeRequest) -> Change:
        with log_stdout("the supervisor"):
            return self._planner.plan(request)

    async def _make(self, change: Change) -> None:
        for line in change.warnings:
            _log.warning("%s", line)
        for line in change.lines:
            _log.info("change: %s", line)
        if self._is_closed:
            raise ChangeFailed(_STOPPING)
        if change.is_new:
            await self._transaction.make(change.plan, change.base, change.exchange)
        if change.reload is not None:
            self._processes.reload(change.reload)
        number = self._live.current.generation.number
        await _in_thread(partial(self._planner.came_up, change, number))
        self._on_change(change.plan)

    def _result(
        self, changes: tuple[str, ...] = (), error: str = "", *, is_wrong: bool = False
    ) -> ChangeResult:
        return ChangeResult(self._live.current.generation.number, changes, error, is_wrong)


def _is_dry_run(request: ChangeRequest) -> bool:
    return isinstance(request, ReloadRequest | PlaceRequest) and request.dry_run


def _in_thread(call: Callable[[], _T]) -> asyncio.Future[_T]:
    """Run a call in a thread that does not hold up the end of this process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def run() -> None:
        try:
            result = call()
        except BaseException as error:
            outcome = partial(future.set_exception, error)
        else:
            outcome = partial(future.set_result, result)
        with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
            loop.call_soon_threadsafe(lambda: None if future.done() else outcome())

    threading.Thread(target=run, name="planning", daemon=True).start()
    return future
