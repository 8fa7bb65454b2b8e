"""All children of the supervisor: each is started, waited for, and started again.

Runs in the supervisor. Each child has a task that starts its process, waits for it to be up, waits
for its death, and starts it again; its spec says all that is alive at that moment. Reports, starts
and deaths flow out to the one that changes what is served (`on_report`, `on_up`, `on_end`).

A worker's ranges are handed out again only after it is reaped: the front-end is notified of a death
once the process has been waited for. Restarts back off only if deaths come before the child is up,
or within a second of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from server.errors import StartError
from server.inference.commands import Changes, Reload, WorkerDown, WorkerReaped, WorkerStarted
from server.inference.spec import ChangeCounts, FrontEndSpec
from server.supervision.child import Child, Report
from server.supervision.live import LiveDeployments
from server.supervision.memory_watch import MemoryWatch
from workers.combiner.rule_guard import RuleCrashes, rules_of
from workers.runtime.logs import log_environment, log_settings
from workers.runtime.memory import SharedMemory
from workers.runtime.spec import Attach, CombinerSpec, Detach, DeviceSpec, WorkerSpec

__all__ = ["Observer", "Processes"]

_log = logging.getLogger(__name__)
_QUICK_DEATH_S = 1.0
_FIRST_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 10.0
#: After so many failed starts in a row, a worker is reported as down.
_MAX_FAILED_STARTS = 5
_STOP_TIMEOUT_S = 5.0
_ENVIRONMENT = {
    # GPUs are numbered by PCI bus, as NVML numbers them.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    # Otherwise glibc returns the memory of every large body, and the next one faults it in again.
    "MALLOC_MMAP_THRESHOLD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}
_FRONT_END = "front-end"
_COMBINER = "combiner"


class Observer(Protocol):
    """Is told what becomes of children."""

    def on_report(self, child: Child, report: Report) -> None:
        """A child that is alive reports something."""

    def on_up(self, child: Child) -> None:
        """A process is up."""

    def on_end(self, child: Child, reason: str) -> None:
        """A process has been reaped, or could not be started; `reason` may be empty."""


class Processes:
    """The children, and what they are started with.

    A worker's incarnation, and a front-end's epoch and workers, are filled into the specs at each
    start. `environment` is for every child. Once `is_final` is set, nothing is started any more;
    a front-end not even once `is_stopping` is.

    Attributes:
        memory: shared with all children.
        workers: by device.
        is_ready: whether all children have been up.
        failed: set once a child can't be kept alive.
    """

    def __init__(
        self,
        *,
        front_end: FrontEndSpec,
        live: LiveDeployments,
        environment: Mapping[str, str],
        observer: Observer,
    ) -> None:
        self._observer = observer
        self.memory = SharedMemory(front_end.memory)
        self.memory_watch = MemoryWatch(front_end.devices)
        self.is_ready = False
        self.is_stopping = asyncio.Event()
        self.is_final = asyncio.Event()
        self._live = live
        self._spec = front_end
        self._rule_crashes = RuleCrashes()
        self._environment = {**_ENVIRONMENT, **environment}
        self._incarnations = 0  # of workers that are gone for good
        self.failed = asyncio.Event()
        self._runs: dict[Child, asyncio.Task[None]] = {}
        self.combiner = self._make(_COMBINER, "workers.combiner.process")
        self.front_end = self._make(_FRONT_END, "server.front_end.process")
        self.workers = {one.name: self._make_worker(one) for one in front_end.devices}

    def _make(self, name: str, module: str, device: DeviceSpec | None = None) -> Child:
        return Child(
            name,
            module,
            self._observer.on_report,
            device,
            self._incarnations if device else 0,
        )

    def _make_worker(self, device: DeviceSpec) -> Child:
        return self._make(f"worker {device.name}", "workers.worker.process", device)

    @property
    def children(self) -> list[Child]:
        """All of them; the front-end last, which waits for the others."""
        return [self.combiner, *self.workers.values(), self.front_end]

    @property
    def devices(self) -> tuple[DeviceSpec, ...]:
        """Those that have a worker."""
        return tuple(worker.device for worker in self.workers.values() if worker.device)

    def find_down(self) -> list[str]:
        """The devices whose workers are down."""
        return [name for name, worker in self.workers.items() if worker.is_down]

    def start(self) -> None:
        """Start all children."""
        for child in self.children:
            self._keep(child)

    async def join(self) -> None:
        """Wait until no child is started any more.

        Raises:
            StartError: if one could not be kept alive.
        """
        results = await asyncio.gather(*self._runs.values(), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _keep(self, child: Child) -> None:
        """Start a child, in a task."""

        def on_done(run: asyncio.Task[None]) -> None:
            if not run.cancelled() and run.exception() is not None:
                self.failed.set()

        run = self._runs[child] = asyncio.create_task(self._run(child))
        run.add_done_callback(on_done)

    def reload(self, reload: Reload) -> None:
        """Apply keys, certificates and the log level: now, and in processes that start later."""
        logging.getLogger().setLevel(reload.log_level.upper())
        _, style = log_settings(self._environment)
        self._environment |= log_environment(reload.log_level, style)
        self._spec = msgspec.structs.replace(self._spec, security=reload.security)
        self.front_end.write(reload)

    def report_changes(self, counts: ChangeCounts) -> None:
        """Tell the front-end, and those that start later, what became of changes."""
        self._spec = msgspec.structs.replace(self._spec, changes=counts)
        self.front_end.write(Changes(counts))

    # -- workers that come and go -------------------------------------------------------------

    def attach(self, device: DeviceSpec) -> bool:
        """Start the worker of a new device, if there is a slot for it."""
        devices = self.memory.spec.queues.devices
        if "" not in devices:
            return False
        slot = devices.index("")
        self.memory.attach(device.name, slot)
        for child in (self.front_end, self.combiner):
            child.write(Attach(device, slot))
        worker = self.workers[device.name] = self._make_worker(device)
        self._keep(worker)
        return True

    async def retire(self, worker: Child) -> None:
        """End the worker of a device that nothing lives on any more; its slot is spare again."""
        assert worker.device is not None
        worker.retired.set()
        worker.close_stdin()
        run = self._runs.pop(worker)
        await asyncio.wait([run], timeout=_STOP_TIMEOUT_S)
        worker.kill()
        await run
        self._incarnations = max(self._incarnations, worker.incarnation)
        del self.workers[worker.device.name]
        for child in (self.front_end, self.combiner):
            child.write(Detach(worker.device.name))
        self.memory.board(worker.name).erase()
        self.memory.detach(worker.device.name)

    # -- starting and restarting --------------------------------------------------------------

    def _is_final(self, child: Child) -> bool:
        """Whether a child is not restarted: while requests drain, only the front-end is not."""
        is_last_front_end = child is self.front_end and self.is_stopping.is_set()
        return self.is_final.is_set() or child.retired.is_set() or is_last_front_end

    async def _run(self, child: Child) -> None:
        """Start a child, and restart it until the server stops."""
        quick_deaths = failed_starts = 0
        while not self._is_final(child):
            error = await self._start(child)
            up_since = time.monotonic()
            if error:
                failed_starts += 1
                child.kill()
            else:
                failed_starts = 0
                self._note_up(child)
            if child.alive:
                await self._reap(child)
            reason = error or child.exit_reason
            self._observer.on_end(child, reason)
            if self._is_final(child):
                return
            if error and not (child.up.is_set() or self.is_ready):
                raise StartError(f"{child.name}: {error}")
            _log.warning("%s died%s; restarting", child.name, f" ({reason})" if reason else "")
            if failed_starts >= _MAX_FAILED_STARTS:
                self._mark_down(child, error)
            is_quick = error or time.monotonic() - up_since < _QUICK_DEATH_S
            quick_deaths = quick_deaths + 1 if is_quick else 0
            if quick_deaths:
                delay_s = min(_FIRST_BACKOFF_S * 2 ** (quick_deaths - 1), _MAX_BACKOFF_S)
                await self._back_off(child, delay_s)

    async def _back_off(self, child: Child, delay_s: float) -> None:
        """Wait for a while, until the child is due, or until it is not needed any more."""
        events = self.is_final, child.retired, child.due
        waits = [asyncio.create_task(one.wait()) for one in events]
        await asyncio.wait(waits, timeout=delay_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        child.due.clear()

    def _note_up(self, child: Child) -> None:
        child.serves = True
        child.is_down = False
        child.up.set()
        if child.device is not None:
            self.note_memory([child])
        self._observer.on_up(child)

    def note_memory(self, workers: Iterable[Child]) -> None:
        """Workers have loaded or unloaded: what they take now is no leak."""
        for worker in workers:
            if worker.process is not None and worker.serves:
                self.memory_watch.record_up(worker.process.pid)

    def _mark_down(self, child: Child, error: str) -> None:
        if child.device is None:
            raise StartError(f"{child.name} can't be kept alive: {error}")
        _log.error("%s is down: %s", child.name, error)
        child.is_down = True
        self.front_end.write(WorkerDown(child.device.name))

    async def _start(self, child: Child) -> str:
        """Start a process and wait until it is up; return what is wrong, empty if nothing is."""
        try:
            await self._spawn(child)
        except OSError as error:  # out of descriptors, processes or memory, perhaps not for long
            return f"can't be started: {error}"
        return await child.wait_up()

    async def _spawn(self, child: Child) -> None:
        environment = {**os.environ, **self._environment}
        await child.spawn(self._descriptors(child), environment)
        assert child.process is not None
        # Nothing is awaited from here to the last write: a child's spec and the commands that
        # follow it must be consistent.
        self.memory.board(child.name).clear()
        child.alive = True
        if self._is_final(child):  # it was spawning while the others were stopped
            child.kill()
        self.memory.board(child.name).record_start(child.process.pid)
        child.incarnation += 1
        child.ended.clear()
        child.write(self._spec_of(child))
        if child.device is not None:
            self.front_end.write(WorkerStarted(child.device.name, child.incarnation))
        if child is self.front_end:
            for worker in self.workers.values():
                if worker.is_down and worker.device is not None:
                    child.write(WorkerDown(worker.device.name))

    def _spec_of(self, child: Child) -> msgspec.Struct:
        memory, sockets = self.memory.spec, self._spec.sockets
        if child.device is not None:
            loads = self._live.loads(child.device.name, is_down=child.is_down)
            tracing = self._spec.tracing
            return WorkerSpec(child.device, child.incarnation, loads, memory, sockets, tracing)
        if child is self.combiner:
            paused = self._rule_crashes.paused(time.monotonic_ns())
            return CombinerSpec(self._live.generations(), memory, sockets, paused)
        alive = {name: worker for name, worker in self.workers.items() if worker.alive}
        starting = [n for n, one in alive.items() if not self.memory.board(one.name).has_begun]
        return msgspec.structs.replace(
            self._spec,
            epoch=child.incarnation,
            workers=tuple((name, worker.incarnation) for name, worker in alive.items()),
            # The server is not ready before all have started once; later, some may take long.
            starting=tuple(starting) if self.is_ready else (),
            devices=self.devices,
            memory=memory,
            deployment=self._live.current,
        )

    async def _reap(self, child: Child) -> None:
        assert child.process is not None
        status = await child.process.wait()
        child.alive = child.serves = False
        child.drain()
        board = self.memory.board(child.name)
        board.record_exit()
        child.close_stdin()
        if not self.is_stopping.is_set():
            _log.info("%s (process %d) ended: %s", child.name, child.process.pid, status)
        if child.device is not None:
            message = WorkerReaped(child.device.name, child.incarnation, board.executing)
            self.front_end.write(message)
        elif child is self.combiner:
            generations = [load.generation for load in self._live.generations()]
            rules = rules_of(board.executing, generations)
            self._rule_crashes.record(rules, time.monotonic_ns())
        child.ended.set()

    def _descriptors(self, child: Child) -> tuple[int, ...]:
        """What a child inherits: the memory, its own bell and those it rings.

        A front-end rings all workers, also those that come later, and has the listening socket.
        """
        memory = self.memory.spec
        bells = list(zip(memory.queues.processes, memory.queues.bells, strict=False))
        if child is self.front_end:
            rung = [bell for name, bell in bells if name != _COMBINER]
            return (memory.fd, *rung, self._spec.http_fd)
        names = (child.name, _COMBINER, _FRONT_END)
        return (memory.fd, *(bell for name, bell in bells if name in names))
