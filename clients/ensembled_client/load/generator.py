"""A load process: connects, waits for the start, generates its share of the load, and measures.

The parent handles Ctrl-C and draws; here nothing runs beside the load but a look at the clock now
and then. Messages through the pipe:

    parent                           load process
      | GeneratorConfig (at its start)    |
      |---------------------------------->|  connects
      |<--------------------------- READY |  or LoadTestError
      | start, ns of the monotonic clock  |
      |---------------------------------->|  warm-up, measurement
      |<--------------- Progress, repeated|  unless --quiet
      | STOP (Ctrl-C) ------------------->|
      |<-------------------- RequestStats |  or LoadTestError
"""

from __future__ import annotations

import asyncio
import gc
import signal
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final

from ensembled_client.load.http_connection import HttpLoadConnection
from ensembled_client.load.loops import ClosedLoadLoop, LoadLoop, NewConnection, OpenLoadLoop
from ensembled_client.load.options import LoadOptions, LoadTestError
from ensembled_client.load.schedule import Schedule, new_timer, share
from ensembled_client.load.stats import (
    DurationHistogram,
    RequestStats,
    Window,
    connect_error,
    current_usage,
)
from ensembled_client.load.workload import Workload

__all__ = [
    "READY",
    "STOP",
    "GeneratorConfig",
    "LagMonitor",
    "Progress",
    "connections",
    "run_generator",
]

READY: Final = "ready"
STOP: Final = "stop"

_SECOND_NS = 1_000_000_000
_MAX_CONNECT_S = 10.0
_CHECK_S = 0.2
_PROGRESS_NS = 250_000_000
_LAG_INTERVAL_NS = 20_000_000
# An interrupted test waits so long for the responses to requests in flight.
_STOP_S = 1.0
# Processes should not send the same request at the same time.
_CYCLE_OFFSET = 7


@dataclass(frozen=True)
class GeneratorConfig:
    """The share of a test that one process generates."""

    options: LoadOptions
    workload: Workload
    schedule: Schedule | None  # of all processes together; None for a closed loop
    index: int
    processes: int
    connections: int  # of this process; in an open loop the most
    count: int | None  # of this process' requests in a closed loop; None for no limit


@dataclass(frozen=True)
class Progress:
    """What a process has done so far, without the warm-up; `recent_ns` are its last latencies."""

    index: int
    succeeded: int
    failed: int
    in_flight: int
    recent_ns: tuple[int, ...]


def run_generator(config: GeneratorConfig, pipe: Connection) -> None:
    """Run as a process of its own; the last message is `RequestStats` or a `LoadTestError`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        import uvloop  # noqa: PLC0415  (only if it is installed)
    except ImportError:
        new_event_loop = asyncio.new_event_loop
    else:
        new_event_loop = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            pipe.send(runner.run(_Generator(config, pipe).run()))
    except OSError as error:
        authority = config.options.target.address.authority
        pipe.send(LoadTestError(f"{authority}: {connect_error(error)}"))
    except EOFError:
        pass  # the parent has ended
    finally:
        pipe.close()


@asynccontextmanager
async def connections(options: LoadOptions, count: int) -> AsyncIterator[NewConnection]:
    """Yield what makes connections, `count` at most."""
    target = options.target
    connect_s = min(_MAX_CONNECT_S, options.patience_s)
    if target.protocol == "grpc":
        from ensembled_client.load.grpc_connection import (  # noqa: PLC0415  (an extra)
            grpc_connections,
        )

        async with grpc_connections(target, count, connect_s, options.patience_s) as new:
            yield new
        return
    tls = ssl.create_default_context() if target.address.is_encrypted else None
    yield lambda on_result: HttpLoadConnection(on_result, target, tls, connect_s)


class LagMonitor:
    """Records every 20 ms how late the event loop calls a timer."""

    def __init__(self, lags: DurationHistogram) -> None:
        self._lags = lags
        self._timer = new_timer(self._tick)
        self._due_ns = 0

    def start(self) -> None:
        """Begin to measure."""
        self._due_ns = time.monotonic_ns() + _LAG_INTERVAL_NS
        self._timer.set(self._due_ns)

    def _tick(self) -> None:
        now_ns = time.monotonic_ns()
        # A loop that was blocked for long was late for each tick that it missed.
        while self._due_ns <= now_ns:
            self._lags.record(now_ns - self._due_ns)
            self._due_ns += _LAG_INTERVAL_NS
        self._timer.set(self._due_ns)

    def close(self) -> None:
        """Stop measuring."""
        self._timer.close()


class _Generator:
    """One run of a process."""

    def __init__(self, config: GeneratorConfig, pipe: Connection) -> None:
        self._config = config
        self._options = config.options
        self._pipe = pipe
        self._start_ns: asyncio.Future[int]
        self._interrupted = asyncio.Event()
        self._patience_ns = round(config.options.patience_s * _SECOND_NS)
        deadline_ms = config.options.deadline_ms
        self._stats = RequestStats(
            Window(0),
            None if deadline_ms is None else round(deadline_ms * 1e6),
            keeps_service=config.schedule is not None,
        )

    async def run(self) -> RequestStats:
        """Connect, wait for the start (EOFError if the parent ends), generate load, measure."""
        event_loop = asyncio.get_running_loop()
        self._start_ns = event_loop.create_future()
        async with connections(self._options, self._config.connections) as new_connection:
            loop = self._new_loop(new_connection)
            try:
                await loop.open()
                event_loop.add_reader(self._pipe.fileno(), self._receive)
                self._pipe.send(READY)
                await self._measure(loop, await self._start_ns)
                return self._stats
            finally:
                event_loop.remove_reader(self._pipe.fileno())
                await loop.close()

    def _receive(self) -> None:
        try:
            message = self._pipe.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
            message = STOP
        if message != STOP:
            self._start_ns.set_result(message)
        elif not self._start_ns.done():
            self._start_ns.set_exception(EOFError())
        else:
            self._interrupted.set()

    def _new_loop(self, new_connection: NewConnection) -> LoadLoop:
        config = self._config
        requests = config.workload.cycles(config.index * _CYCLE_OFFSET)
        if config.schedule is None:
            return ClosedLoadLoop(
                new_connection=new_connection,
                requests=requests,
                stats=self._stats,
                connections=config.connections,
                rows=config.workload.rows,
                count=config.count,
            )
        return OpenLoadLoop(
            new_connection=new_connection,
            requests=requests,
            stats=self._stats,
            max_connections=config.connections,
            arrivals=share(config.schedule.arrivals(), config.index, config.processes),
        )

    async def _measure(self, loop: LoadLoop, start_ns: int) -> None:
        window = self._stats.window
        window.begin_ns = start_ns + round(self._options.warmup_s * _SECOND_NS)
        if self._options.duration_s is not None:
            window.end_ns = window.begin_ns + round(self._options.duration_s * _SECOND_NS)
        gc.collect()
        gc.freeze()  # what lives now lives to the end: no need to look through it
        monitor = LagMonitor(self._stats.loop_lag)
        try:
            if self._config.schedule is None:  # the timer of a schedule is more exact
                await asyncio.sleep(max(0, start_ns - time.monotonic_ns()) / _SECOND_NS)
            loop.start(start_ns)
            await self._run_until(loop, window.begin_ns)
            monitor.start()
            before = current_usage()
            await self._run_until(loop, window.end_ns)
            self._stats.usages = (current_usage() - before,)
            if self._interrupted.is_set():
                now_ns = time.monotonic_ns()
                window.end_ns = min(window.end_ns or now_ns, now_ns)
            loop.stop()
            await self._drain(loop)
        finally:
            monitor.close()
        self._stats.close_window()
        self._stats.was_interrupted = self._interrupted.is_set()

    async def _run_until(self, loop: LoadLoop, end_ns: int | None) -> None:
        """Return at that time, or earlier when the loop is done or the test is interrupted."""
        reported_ns = time.monotonic_ns()
        while not (self._interrupted.is_set() or loop.done.is_set()):
            now_ns = time.monotonic_ns()
            if end_ns is not None and now_ns >= end_ns:
                return
            self._cancel_overdue(loop, now_ns)
            if not self._options.quiet and now_ns - reported_ns >= _PROGRESS_NS:
                reported_ns = now_ns
                progress = Progress(
                    index=self._config.index,
                    succeeded=self._stats.succeeded,
                    failed=self._stats.errors.total(),
                    in_flight=loop.in_flight,
                    recent_ns=tuple(self._stats.recent_ns),
                )
                self._pipe.send(progress)
            left_s = _CHECK_S if end_ns is None else (end_ns - now_ns) / _SECOND_NS
            await _wait_any(min(left_s, _CHECK_S), loop.done, self._interrupted)

    async def _drain(self, loop: LoadLoop) -> None:
        """Wait for the responses to requests in flight, as long as patience lasts."""
        await self._run_until(loop, time.monotonic_ns() + self._patience_ns)
        if self._interrupted.is_set():
            await _wait_any(min(_STOP_S, self._options.patience_s), loop.done)
            loop.abandon()
        else:
            self._cancel_overdue(loop, time.monotonic_ns() + self._patience_ns + 1)

    def _cancel_overdue(self, loop: LoadLoop, now_ns: int) -> None:
        error = f"no response within {self._options.patience_s:g} s"
        loop.cancel_before(now_ns - self._patience_ns, error)


async def _wait_any(timeout_s: float, *events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
