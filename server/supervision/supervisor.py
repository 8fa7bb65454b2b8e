"""The supervisor: the parent of all other processes. It starts, watches, restarts and stops them.

It carries no data. It speaks with each child over pipes (see `workers.runtime.bootstrap`): the spec
and commands in, status lines out; what a child publishes on the board of the shared memory tells
whether it hangs. Every child has a keeper: a task that starts the process, waits for it to be up,
waits for its death, and starts it again.

A worker's ranges are handed out again only when it is reaped: so the front-end is told of a death
after the process was waited for. Restarts back off only when deaths come before the child was up
or within a second of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from server.errors import StartError
from server.inference.spec import (
    Drain,
    FrontEndSpec,
    WorkerDown,
    WorkerReaped,
    WorkerStarted,
)
from server.supervision.child import Child
from server.supervision.notify import Notifier
from server.supervision.rereading import Rereading
from workers.combiner.rule_guard import RuleDeaths
from workers.runtime.logs import log_environment, settings_of
from workers.runtime.memory import SharedMemory
from workers.runtime.spec import CombinerSpec, MemorySpec, WorkerSpec

__all__ = ["Supervisor"]

_log = logging.getLogger(__name__)
_QUICK_DEATH_S = 1.0
_FIRST_BACKOFF_S = 0.1
_LONGEST_BACKOFF_S = 10.0
#: So many deaths in a row before being up make a role "down".
_FAILED_STARTS = 5
_WATCH_S = 0.2
_BEAT_LIMIT_S = 5.0
_STOP_S = 5.0
_ENVIRONMENT = {
    # GPUs are counted as NVML counts them, by PCI bus.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    # Else glibc gives the memory of every large body back, and the next one faults it in again.
    "MALLOC_MMAP_THRESHOLD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}
_FRONT_END = "front-end"
_COMBINER = "combiner"


class Supervisor:
    """Runs a server until it is told to stop.

    Args:
        front_end: the front-end's spec; epoch and workers are filled in at each start.
        workers: the spec of each device's worker, but for the incarnation.
        combiner: the combiner's spec.
        memory: the shared memory.
        environment: variables for every child.
        rereading: reads the configuration again when SIGHUP comes.
        notifier: tells systemd how the server is.
        drain_s: how long the requests in flight have when the server is told to stop.
        on_ready: called once, when the server takes traffic.
    """

    def __init__(
        self,
        *,
        front_end: FrontEndSpec,
        workers: tuple[WorkerSpec, ...],
        combiner: CombinerSpec,
        memory: MemorySpec,
        environment: Mapping[str, str],
        rereading: Rereading,
        notifier: Notifier,
        drain_s: float,
        on_ready: Callable[[], None],
    ) -> None:
        self._front_end_spec = front_end
        self._worker_specs = {spec.device.name: spec for spec in workers}
        self._combiner_spec = combiner
        self._memory = SharedMemory(memory)
        self._rule_deaths = RuleDeaths()
        self._descriptors = _descriptors(memory, front_end.http_fd)
        self._environment = {**_ENVIRONMENT, **environment}
        self._rereading = rereading
        self._notifier = notifier
        self._drain_s = drain_s
        self._on_ready = on_ready
        self._reload_wanted = asyncio.Event()
        self._stopping = asyncio.Event()
        self._drained = asyncio.Event()
        self._forced = asyncio.Event()
        self._ready = False
        self._front_end = Child(_FRONT_END, "server.front_end.process")
        self._combiner = Child(_COMBINER, "workers.combiner.process")
        self._workers = [
            Child(f"worker {name}", "workers.worker.process", device=name)
            for name in self._worker_specs
        ]

    @property
    def _children(self) -> list[Child]:
        return [self._combiner, *self._workers, self._front_end]

    async def run(self) -> None:
        """Start everything, keep it alive, and stop it when told to by SIGTERM or SIGINT.

        Raises:
            StartError: if a process could not start, or one that must live keeps dying.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        if self._rereading.is_due:
            self._reload_wanted.set()
        keepers = [asyncio.create_task(self._keep(child)) for child in self._children]
        watchers = [asyncio.create_task(watch) for watch in (self._watch(), self._reload())]
        try:
            await self._first(self._all_up(), *keepers)
            if not self._stopping.is_set() and all(child.up.is_set() for child in self._children):
                self._ready = True
                self._on_ready()
                self._notifier.ready()
                watchers.append(asyncio.create_task(self._notifier.keep_alive()))
                await self._first(*keepers)
        finally:
            self._stopping.set()
            self._notifier.stopping()
            await self._stop()
            for watcher in watchers:
                watcher.cancel()
            ends = await asyncio.gather(*keepers, return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _first(self, *waits: Awaitable[None]) -> None:
        """Wait until one of `waits` is over, or the server is told to stop."""
        tasks = [asyncio.ensure_future(wait) for wait in (*waits, self._stopping.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        tasks[-1].cancel()

    async def _all_up(self) -> None:
        for child in self._children:
            await child.up.wait()

    def _is_over(self, child: Child) -> bool:
        """Whether a child is not started again: while requests drain, the others are needed."""
        return self._drained.is_set() or (child is self._front_end and self._stopping.is_set())

    def _on_signal(self, number: int) -> None:
        if self._stopping.is_set():
            self._forced.set()
        _log.info("%s: stopping", signal.Signals(number).name)
        self._stopping.set()

    # -- keeping ------------------------------------------------------------------------------

    async def _keep(self, child: Child) -> None:
        """Start a child, again and again, until the server stops."""
        quick_deaths = failed_starts = 0
        while not self._is_over(child):
            error = await self._start(child)
            up_since = time.monotonic()
            if error is None:
                failed_starts = 0
                child.up.set()
                child.is_down = False
            else:
                failed_starts += 1
                child.kill()
            if child.alive:
                await self._reap(child)
            if self._is_over(child):
                return
            if error is not None and not child.up.is_set():
                raise StartError(f"{child.name}: {error}")
            why = error or await child.last_words()
            _log.warning("%s died%s; restarting", child.name, f" ({why})" if why else "")
            if failed_starts >= _FAILED_STARTS:
                self._give_up(child, error or "it keeps dying")
            quick = error is not None or time.monotonic() - up_since < _QUICK_DEATH_S
            quick_deaths = quick_deaths + 1 if quick else 0
            if quick_deaths:
                delay = min(_FIRST_BACKOFF_S * 2 ** (quick_deaths - 1), _LONGEST_BACKOFF_S)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._drained.wait(), delay)

    def _give_up(self, child: Child, error: str) -> None:
        if not child.device:
            raise StartError(f"{child.name} can't be kept alive: {error}")
        _log.error("%s is down: %s", child.name, error)
        child.is_down = True
        self._front_end.write(WorkerDown(child.device))

    async def _start(self, child: Child) -> str | None:
        """Start a process and wait until it is up; what is wrong, or None if it is."""
        try:
            await self._spawn(child)
        except OSError as error:  # no descriptors, processes or memory are left: there may be later
            return f"it can't be started: {error}"
        return await child.wait_up()

    async def _spawn(self, child: Child) -> None:
        await child.spawn(self._descriptors[child.name], {**os.environ, **self._environment})
        assert child.process is not None
        # From here to the last write nothing is awaited: what the front-end is told in its spec
        # and what it is told by commands fit together.
        self._memory.board(child.name).clear()
        child.alive = True
        if self._is_over(child):  # it was not there yet when the others were told to end
            child.kill()
        self._memory.board(child.name).note_start(child.process.pid)
        child.incarnation += 1
        child.ended.clear()
        child.write(self._spec_of(child))
        if child.device:
            self._front_end.write(WorkerStarted(child.device, child.incarnation))
        if child is self._front_end:
            for worker in self._workers:
                if worker.is_down:
                    child.write(WorkerDown(worker.device))

    def _spec_of(self, child: Child) -> msgspec.Struct:
        if child.device:
            spec = self._worker_specs[child.device]
            return msgspec.structs.replace(spec, incarnation=child.incarnation)
        if child is self._combiner:
            paused = self._rule_deaths.paused(time.monotonic_ns())
            return msgspec.structs.replace(self._combiner_spec, paused=paused)
        alive = [worker for worker in self._workers if worker.alive]
        starting = [one.device for one in alive if not self._memory.board(one.name).has_begun]
        return msgspec.structs.replace(
            self._front_end_spec,
            epoch=child.incarnation,
            workers=tuple((worker.device, worker.incarnation) for worker in alive),
            # The server is not ready before all have started once; later, some may take long.
            starting=tuple(starting) if self._ready else (),
        )

    async def _reap(self, child: Child) -> None:
        assert child.process is not None
        status = await child.process.wait()
        child.alive = False
        if child.pipes is not None:
            child.pipes.drain()
        self._memory.board(child.name).note_end()
        child.let_go()
        if not self._stopping.is_set():
            _log.info("%s (process %d) ended: %s", child.name, child.process.pid, status)
        if child.device:
            executing = self._memory.board(child.name).executing
            self._front_end.write(WorkerReaped(child.device, child.incarnation, executing))
        elif child is self._combiner:
            self._rule_deaths.blame(self._memory.board(child.name).executing, time.monotonic_ns())
        child.ended.set()

    # -- watching -----------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Kill what hangs: its keeper starts it again.

        If the supervisor itself was held up, its children may have been as well: look again later.
        """
        last = time.monotonic()
        while True:
            await asyncio.sleep(_WATCH_S)
            held_up = time.monotonic() - last > 5 * _WATCH_S
            last = time.monotonic()
            if held_up:
                await asyncio.sleep(_BEAT_LIMIT_S)
                last = time.monotonic()
            now = time.monotonic_ns()
            for child in self._children:
                board = self._memory.board(child.name)
                if child.alive and board.is_hung(now, int(_BEAT_LIMIT_S * 1e9)):
                    _log.error("%s hangs; killing it", child.name)
                    child.kill()

    async def _reload(self) -> None:
        """Whenever that is wanted, read the configuration again and go by it.

        The front-end that lives is told, and those to come find it in their spec.
        """
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            is_told = self._ready  # systemd knows of no reload before
            if is_told:
                self._notifier.reloading()
            reload = await asyncio.to_thread(self._rereading.again)
            if reload is not None:
                logging.getLogger().setLevel(reload.log_level.upper())
                _, style = settings_of(self._environment)
                self._environment |= log_environment(reload.log_level, style)
                self._front_end_spec = msgspec.structs.replace(
                    self._front_end_spec, security=reload.security
                )
                self._front_end.write(reload)
            if is_told and not self._stopping.is_set():
                self._notifier.ready()

    # -- stopping -----------------------------------------------------------------------------

    async def _stop(self) -> None:
        """Refuse, drain, stop, and kill what is left: the front-end first, then the others."""
        if self._front_end.alive:
            if self._ready:
                self._front_end.write(Drain())
                if not await self._ended([self._front_end], self._drain_s):
                    when = "a second signal" if self._forced.is_set() else "the grace period"
                    _log.error("requests are still in flight after %s", when)
            self._front_end.kill()
        self._drained.set()
        for child in self._children:
            child.let_go()
        await self._ended(self._children, _STOP_S)
        for child in self._children:
            child.kill()

    async def _ended(self, children: list[Child], timeout_s: float) -> bool:
        """Wait until children have ended, at most so long and not past a second signal."""
        ends = [asyncio.create_task(child.ended.wait()) for child in children if child.alive]
        forced = asyncio.create_task(self._forced.wait())
        deadline = time.monotonic() + timeout_s
        pending: set[asyncio.Task[Any]] = set(ends)
        while pending and not forced.done() and (left := deadline - time.monotonic()) > 0:
            _, pending = await asyncio.wait(
                {*pending, forced}, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            pending.discard(forced)
        for task in (*pending, forced):
            task.cancel()
        return not pending


def _descriptors(memory: MemorySpec, http_fd: int) -> dict[str, tuple[int, ...]]:
    """What each process inherits: the memory, its own bell and those that it rings.

    Only the front-end has the listening socket.
    """
    queues = memory.queues
    bells = dict(zip(queues.processes, queues.bells, strict=False))  # none, if ZeroMQ rings

    def of(*names: str) -> tuple[int, ...]:
        return (memory.fd, *(bells[name] for name in names if name in bells))

    workers = [f"worker {device}" for device in queues.devices]
    return {
        _FRONT_END: (*of(_FRONT_END, *workers), http_fd),
        _COMBINER: of(_COMBINER, _FRONT_END),
        **{worker: of(worker, _COMBINER, _FRONT_END) for worker in workers},
    }
