"""The supervisor: the parent of all other processes, which starts, watches and restarts them.

It carries no data. It talks to each child over pipes (see `workers.runtime.bootstrap`): the spec
and commands in, status lines out; what a child publishes on the board of the shared memory shows
whether it hangs. Each child has a task that starts its process, waits for it to be up, waits for
its death, and starts it again.

A worker's ranges are handed out again only after it is reaped: the front-end is notified of a death
once the process has been waited for. Restarts back off only if deaths come before the child is up,
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
from server.supervision.config_reloader import ConfigReloader
from server.supervision.memory_watch import MemoryWatch
from server.supervision.model_watch import ModelWatch
from server.supervision.systemd import SystemdNotifier
from workers.combiner.rule_guard import RuleCrashes, rules_of
from workers.runtime.logs import log_environment, log_settings
from workers.runtime.memory import SharedMemory
from workers.runtime.spec import CombinerSpec, MemorySpec, WorkerSpec

__all__ = ["Supervisor"]

_log = logging.getLogger(__name__)
_QUICK_DEATH_S = 1.0
_FIRST_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 10.0
#: After so many failed starts in a row, a worker is reported as down.
_MAX_FAILED_STARTS = 5
_WATCH_INTERVAL_S = 0.2
_HEARTBEAT_TIMEOUT_S = 5.0
_MODEL_WATCH_INTERVAL_S = 10.0
_MEMORY_INTERVAL_S = 0.5
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


class Supervisor:
    """Runs a server until it is told to stop; then it has `drain_s` for the requests in flight.

    A worker's incarnation, and a front-end's epoch and workers, are filled into the specs at each
    start. `environment` is for every child. `on_ready` is called once, when traffic is accepted.
    """

    def __init__(
        self,
        *,
        front_end: FrontEndSpec,
        workers: tuple[WorkerSpec, ...],
        combiner: CombinerSpec,
        environment: Mapping[str, str],
        reloader: ConfigReloader,
        notifier: SystemdNotifier,
        drain_s: float,
        on_ready: Callable[[], None],
    ) -> None:
        self._front_end_spec = front_end
        self._worker_specs = {spec.device.name: spec for spec in workers}
        self._combiner_spec = combiner
        self._memory = SharedMemory(combiner.memory)
        self._memory_watch = MemoryWatch(spec.device for spec in workers)
        self._rule_crashes = RuleCrashes()
        self._descriptors = _inherited_descriptors(combiner.memory, front_end.http_fd)
        self._environment = {**_ENVIRONMENT, **environment}
        self._reloader = reloader
        self._notifier = notifier
        self._drain_s = drain_s
        self._on_ready = on_ready
        self._reload_requested = asyncio.Event()
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
        self._children = [self._combiner, *self._workers, self._front_end]

    async def run(self) -> None:
        """Start all children, keep them alive, and stop them on SIGTERM or SIGINT.

        Raises:
            StartError: if a process can't start, or an indispensable one keeps dying.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload_requested.set)
        if self._reloader.is_due:
            self._reload_requested.set()
        runs = [asyncio.create_task(self._run_child(child)) for child in self._children]
        loops = (self._kill_hung(), self._kill_leaking(), self._reload(), self._watch_models())
        background = [asyncio.create_task(one) for one in loops]
        try:
            all_up = asyncio.gather(*(child.up.wait() for child in self._children))
            await self._wait_first(all_up, *runs)
            if not self._stopping.is_set() and all(child.up.is_set() for child in self._children):
                self._ready = True
                self._on_ready()
                self._notifier.ready()
                background.append(asyncio.create_task(self._notifier.keep_alive()))
                await self._wait_first(*runs)
        finally:
            self._stopping.set()
            self._notifier.stopping()
            await self._stop()
            for task in background:
                task.cancel()
            results = await asyncio.gather(*runs, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _wait_first(self, *waits: Awaitable[object]) -> None:
        """Wait until one of `waits` is over, or the server is told to stop."""
        tasks = [asyncio.ensure_future(wait) for wait in (*waits, self._stopping.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        tasks[-1].cancel()

    def _on_stop_signal(self, number: int) -> None:
        if self._stopping.is_set():
            self._forced.set()
        _log.info("%s: stopping", signal.Signals(number).name)
        self._stopping.set()

    # -- starting and restarting --------------------------------------------------------------

    def _is_final(self, child: Child) -> bool:
        """Whether a child is not restarted: while requests drain, only the front-end is not."""
        return self._drained.is_set() or (child is self._front_end and self._stopping.is_set())

    async def _run_child(self, child: Child) -> None:
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
                child.up.set()
                child.is_down = False
                if child.device and child.process is not None:
                    self._memory_watch.record_up(child.process.pid)
            if child.alive:
                await self._reap(child)
            if self._is_final(child):
                return
            if error and not child.up.is_set():
                raise StartError(f"{child.name}: {error}")
            reason = error or await child.exit_reason()
            _log.warning("%s died%s; restarting", child.name, f" ({reason})" if reason else "")
            if failed_starts >= _MAX_FAILED_STARTS:
                self._mark_down(child, error)
            is_quick = error or time.monotonic() - up_since < _QUICK_DEATH_S
            quick_deaths = quick_deaths + 1 if is_quick else 0
            if quick_deaths:
                delay_s = min(_FIRST_BACKOFF_S * 2 ** (quick_deaths - 1), _MAX_BACKOFF_S)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._drained.wait(), delay_s)

    def _mark_down(self, child: Child, error: str) -> None:
        if not child.device:
            raise StartError(f"{child.name} can't be kept alive: {error}")
        _log.error("%s is down: %s", child.name, error)
        child.is_down = True
        self._front_end.write(WorkerDown(child.device))

    async def _start(self, child: Child) -> str:
        """Start a process and wait until it is up; return what is wrong, empty if nothing is."""
        try:
            await self._spawn(child)
        except OSError as error:  # out of descriptors, processes or memory, perhaps not for long
            return f"can't be started: {error}"
        return await child.wait_up()

    async def _spawn(self, child: Child) -> None:
        await child.spawn(self._descriptors[child.name], {**os.environ, **self._environment})
        assert child.process is not None
        # Nothing is awaited from here to the last write: the front-end's spec and the commands
        # that follow it must be consistent.
        self._memory.board(child.name).clear()
        child.alive = True
        if self._is_final(child):  # it was spawning while the others were stopped
            child.kill()
        self._memory.board(child.name).record_start(child.process.pid)
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
            paused = self._rule_crashes.paused(time.monotonic_ns())
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
        child.drain()
        self._memory.board(child.name).record_exit()
        child.close_stdin()
        if not self._stopping.is_set():
            _log.info("%s (process %d) ended: %s", child.name, child.process.pid, status)
        if child.device:
            executing = self._memory.board(child.name).executing
            self._front_end.write(WorkerReaped(child.device, child.incarnation, executing))
        elif child is self._combiner:
            generations = [load.generation for load in self._combiner_spec.loads]
            rules = rules_of(self._memory.board(child.name).executing, generations)
            self._rule_crashes.record(rules, time.monotonic_ns())
        child.ended.set()

    # -- background tasks ---------------------------------------------------------------------

    async def _kill_hung(self) -> None:
        """Kill children without a heartbeat, which are then restarted.

        If the supervisor itself was held up, its children may have been, too: check again later.
        """
        last = time.monotonic()
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            held_up = time.monotonic() - last > 5 * _WATCH_INTERVAL_S
            last = time.monotonic()
            if held_up:
                await asyncio.sleep(_HEARTBEAT_TIMEOUT_S)
                last = time.monotonic()
            now = time.monotonic_ns()
            for child in self._children:
                board = self._memory.board(child.name)
                if child.alive and board.is_hung(now, int(_HEARTBEAT_TIMEOUT_S * 1e9)):
                    _log.error("%s hangs; killing it", child.name)
                    child.kill()

    async def _watch_models(self) -> None:
        """Log whose file has changed."""
        sources = [
            one.source
            for spec in self._worker_specs.values()
            for load in spec.loads
            for one in load.instances
        ]
        watch = ModelWatch(sources)
        while True:
            await asyncio.sleep(_MODEL_WATCH_INTERVAL_S)
            for line in await asyncio.to_thread(watch.complaints):
                _log.error("%s", line)

    async def _kill_leaking(self) -> None:
        """Kill workers that leak, which are then restarted."""
        while True:
            await asyncio.sleep(_MEMORY_INTERVAL_S)
            pids = {
                one.device: one.process.pid for one in self._workers if one.alive and one.process
            }
            if (found := self._memory_watch.find_leaking(pids)) is not None:
                device, taken, budget = found
                _log.error(
                    "worker %s takes %d MiB of memory, its devices have %d MiB: killing it",
                    *(device, taken >> 20, budget >> 20),
                )
                next(one for one in self._workers if one.device == device).kill()

    async def _reload(self) -> None:
        """Reload the configuration on request: in the front-end, and in the specs of later ones."""
        while True:
            await self._reload_requested.wait()
            self._reload_requested.clear()
            notifies = self._ready  # before that, systemd knows no reload
            if notifies:
                self._notifier.reloading()
            reload = await asyncio.to_thread(self._reloader.reload)
            if reload is not None:
                logging.getLogger().setLevel(reload.log_level.upper())
                _, style = log_settings(self._environment)
                self._environment |= log_environment(reload.log_level, style)
                self._front_end_spec = msgspec.structs.replace(
                    self._front_end_spec, security=reload.security
                )
                self._front_end.write(reload)
            if notifies and not self._stopping.is_set():
                self._notifier.ready()

    # -- stopping -----------------------------------------------------------------------------

    async def _stop(self) -> None:
        """Shut down gracefully: drain the front-end, stop the others, kill what is left."""
        if self._front_end.alive:
            if self._ready:
                self._front_end.write(Drain())
                if not await self._wait_ended([self._front_end], self._drain_s):
                    when = "a second signal" if self._forced.is_set() else "the grace period"
                    _log.error("requests are still in flight after %s", when)
            self._front_end.kill()
        self._drained.set()
        for child in self._children:
            child.close_stdin()
        await self._wait_ended(self._children, _STOP_TIMEOUT_S)
        for child in self._children:
            child.kill()

    async def _wait_ended(self, children: list[Child], timeout_s: float) -> bool:
        """Wait until children have ended, a timeout, or a second signal; whether they have."""
        ended = asyncio.gather(*(child.ended.wait() for child in children if child.alive))
        waits: list[asyncio.Future[Any]] = [ended, asyncio.create_task(self._forced.wait())]
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        have_ended = ended.done()
        for wait in waits:
            wait.cancel()
        return have_ended


def _inherited_descriptors(memory: MemorySpec, http_fd: int) -> dict[str, tuple[int, ...]]:
    """By process, the descriptors that it inherits: the memory, its own bell and those it rings.

    Only the front-end has the listening socket.
    """
    queues = memory.queues
    bells = dict(zip(queues.processes, queues.bells, strict=False))  # empty if ZeroMQ rings

    def descriptors(*names: str) -> tuple[int, ...]:
        return (memory.fd, *(bells[name] for name in names if name in bells))

    workers = [f"worker {device}" for device in queues.devices if device]
    return {
        _FRONT_END: (memory.fd, *queues.bells, http_fd),
        _COMBINER: descriptors(_COMBINER, _FRONT_END),
        **{worker: descriptors(worker, _COMBINER, _FRONT_END) for worker in workers},
    }
