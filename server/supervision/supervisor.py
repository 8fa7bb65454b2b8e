"""The supervisor: the parent of all other processes, which starts, watches and restarts them.

It carries no data. It talks to each child over pipes (see `workers.runtime.bootstrap`): the spec
and commands in, status lines out; what a child publishes on the board of the shared memory shows
whether it hangs. Signals flow in: SIGTERM and SIGINT stop the server, SIGHUP reloads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from server.control import Ask, ReloadRequest
from server.deployment.plan import DeploymentPlan
from server.following.traffic import Traffic
from server.inference.commands import Drain
from server.inference.spec import FrontEndSpec
from server.supervision.change_queue import ChangeQueue
from server.supervision.changes import ChangePlanner
from server.supervision.child import Child, Report
from server.supervision.config_reloader import ConfigReloader
from server.supervision.follower import Follower
from server.supervision.live import LiveDeployments
from server.supervision.processes import Processes
from server.supervision.recorder import Recorder
from server.supervision.systemd import SystemdNotifier
from server.supervision.transaction import Transaction
from server.supervision.watch import FileWatch
from server.supervision.watchdogs import kill_hung, kill_leaking, watch_models

__all__ = ["Supervisor"]

_log = logging.getLogger(__name__)
_STOP_TIMEOUT_S = 5.0


class Supervisor:
    """Runs a server until it is told to stop; then it has `drain_s` for the requests in flight.

    `front_end` says what is served first; `environment` is for every child. What `watch` notices
    makes it reload. `on_ready` is called once, when traffic is accepted.
    """

    def __init__(
        self,
        *,
        front_end: FrontEndSpec,
        environment: Mapping[str, str],
        planner: ChangePlanner,
        reloader: ConfigReloader,
        notifier: SystemdNotifier,
        watch: FileWatch | None,
        recorder: Recorder,
        drain_s: float,
        on_ready: Callable[[], None],
    ) -> None:
        self._live = LiveDeployments(front_end.deployment)
        self._processes = Processes(
            front_end=front_end, live=self._live, environment=environment, observer=self
        )
        self._transaction = Transaction(self._processes, self._live, drain_s)
        self._changes = ChangeQueue(
            planner, self._transaction, self._processes, self._live, self._follow
        )
        self._follower = Follower(self._changes.submit, self._processes.find_down)
        self._recorder = recorder
        self._follow(planner.current)
        self._reloader = reloader
        self._notifier = notifier
        self._watch = watch
        self._drain_s = drain_s
        self._on_ready = on_ready
        self._stopping = self._processes.is_stopping
        self._forced = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Start all children, keep them alive, and stop them on SIGTERM or SIGINT.

        Raises:
            StartError: if a process can't start, or an indispensable one keeps dying.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hang_up)
        if self._reloader.is_due:
            self._on_hang_up()
        processes = self._processes
        processes.start()
        self._start(kill_hung(processes))
        self._start(kill_leaking(processes, self._live))
        self._start(watch_models(self._live))
        try:
            all_up = asyncio.gather(*(child.up.wait() for child in processes.children))
            await self._wait_first(all_up, processes.failed.wait())
            if all_up.done() and not self._stopping.is_set():
                processes.is_ready = True
                self._on_ready()
                self._notifier.ready()
                self._start(self._notifier.keep_alive())
                self._start(self._changes.run())
                self._start(self._follower.run())
                self._start(self._recorder.run())
                if self._watch is not None:
                    self._start(self._reload_after_bursts(self._watch))
                await self._wait_first(processes.failed.wait())
        finally:
            self._stopping.set()
            self._notifier.stopping()
            self._changes.close()
            await self._stop()
            await self._recorder.flush()
            for task in self._background:
                task.cancel()
            await processes.join()

    def _start(self, background: Coroutine[Any, Any, None]) -> None:
        """Run something in the background for as long as the server runs."""
        task = asyncio.create_task(background)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _wait_first(self, *waits: Awaitable[object]) -> None:
        """Wait until one of `waits` is over, or the server is told to stop."""
        tasks = [asyncio.ensure_future(wait) for wait in (*waits, self._stopping.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()

    # -- of signals ---------------------------------------------------------------------------

    def _on_stop_signal(self, number: int) -> None:
        if self._stopping.is_set():
            self._forced.set()
        _log.info("%s: stopping", signal.Signals(number).name)
        self._stopping.set()

    def _on_hang_up(self) -> None:
        self._start(self._reload())

    async def _reload(self) -> None:
        """Reload the configuration, and tell systemd."""
        notifies = self._processes.is_ready  # before that, systemd knows no reload
        if notifies:
            self._notifier.reloading()
        await self._changes.submit(ReloadRequest())
        if notifies and not self._stopping.is_set():
            self._notifier.ready()

    async def _reload_after_bursts(self, watch: FileWatch) -> None:
        """Reload whenever files have changed."""
        async with contextlib.aclosing(watch.bursts()) as bursts:
            async for _ in bursts:
                await self._reload()

    def _follow(self, plan: DeploymentPlan) -> None:
        generation = self._live.current.generation.number
        self._follower.serve(generation, plan)
        self._recorder.serve(generation, plan)

    # -- of children --------------------------------------------------------------------------

    def on_report(self, child: Child, report: Report) -> None:
        """A child that is alive reports something."""
        match report:
            case Ask():
                self._changes.answer(report)
            case Traffic():
                self._follower.observe(report)
                self._recorder.observe(report)
            case _:
                self._transaction.on_report(child, report)

    def on_up(self, child: Child) -> None:
        """A process is up."""
        self._transaction.on_up(child)

    def on_end(self, child: Child, reason: str) -> None:
        """A process is dead, or could not be started."""
        self._transaction.on_end(child, reason)

    # -- stopping -----------------------------------------------------------------------------

    async def _stop(self) -> None:
        """Shut down gracefully: drain the front-end, stop the others, kill what is left."""
        front_end = self._processes.front_end
        if front_end.alive:
            if self._processes.is_ready:
                front_end.write(Drain())
                if not await self._wait_ended([front_end], self._drain_s):
                    when = "a second signal" if self._forced.is_set() else "the grace period"
                    _log.error("requests are still in flight after %s", when)
            front_end.kill()
        self._processes.is_final.set()
        children = self._processes.children
        for child in children:
            child.close_stdin()
        await self._wait_ended(children, _STOP_TIMEOUT_S)
        for child in children:
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
