"""A process that makes load: connects, keeps to its job, hands over what it has counted.

The parent draws and prints; here nothing runs beside the load but a look at the clock now and
then. Ctrl-C is the parent's business, too.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from ensembled_client.load.alarm import new_alarm
from ensembled_client.load.closed_loop import ClosedLoop
from ensembled_client.load.http_lane import connect_error
from ensembled_client.load.job import Failed, Job, Progress, Ready, Start, Stop
from ensembled_client.load.lag import LoopWatch, UsageMeter
from ensembled_client.load.lanes import LaneMaker
from ensembled_client.load.loops import Loop
from ensembled_client.load.making import lane_factory
from ensembled_client.load.open_loop import OpenLoop
from ensembled_client.load.recorder import Recorder, Tally, Window
from ensembled_client.load.schedule import share
from ensembled_client.load.workload import Rotation

__all__ = ["generate"]

_SECOND_NS = 1_000_000_000
_EXPIRE_S = 0.2
# A test that is broken off waits so long for the answers that are on their way.
_STOP_S = 1.0
_ROTATION_STEP = 7


def generate(*, job: Job, pipe: Connection) -> None:
    """Run as a process of its own; the last message in the pipe is a `Tally` or `Failed`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pipe.send(_run(Generator(job, pipe).run))
    except OSError as error:
        pipe.send(Failed(f"{job.target.authority}: {connect_error(error)}"))
    except EOFError:
        pass  # the parent has gone
    finally:
        pipe.close()


def _run(main: Callable[[], object]) -> object:
    try:
        import uvloop  # noqa: PLC0415  (only if it is installed)
    except ImportError:
        factory = asyncio.new_event_loop
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())  # type: ignore[arg-type]


class Generator:
    """One run of a job.

    Args:
        job: what to do.
        pipe: to the parent.
    """

    def __init__(self, job: Job, pipe: Connection) -> None:
        self._job = job
        self._pipe = pipe
        self._started: asyncio.Future[int]
        self._broken_off = asyncio.Event()

    async def run(self) -> Tally:
        """Connect, wait for the start, make load, and count.

        Raises:
            OSError: if the server can't be reached.
            EOFError: if the parent has gone.
        """
        event_loop = asyncio.get_running_loop()
        self._started = event_loop.create_future()
        window = Window(0)
        deadline_s = self._job.deadline_s
        recorder = Recorder(
            window,
            None if deadline_s is None else round(deadline_s * _SECOND_NS),
            keeps_service=self._job.schedule is not None,
        )
        async with lane_factory(self._job) as make_lane:
            loop = self._loop(make_lane, recorder)
            try:
                await loop.open()
                event_loop.add_reader(self._pipe.fileno(), self._told)
                self._pipe.send(Ready())
                at_ns = await self._started
                self._set_window(window, at_ns)
                return await self._measure(loop, recorder, at_ns)
            finally:
                event_loop.remove_reader(self._pipe.fileno())
                await loop.close()

    def _told(self) -> None:
        try:
            message = self._pipe.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
            message = Stop()
        if isinstance(message, Start):
            self._started.set_result(message.at_ns)
        elif not self._started.done():
            self._started.set_exception(EOFError())
        else:
            self._broken_off.set()

    def _loop(self, make_lane: LaneMaker, recorder: Recorder) -> Loop:
        job, clock_ns = self._job, time.monotonic_ns
        rotation = Rotation(job.workload, job.index * _ROTATION_STEP)
        if job.schedule is None:
            return ClosedLoop(
                make_lane,
                lanes=job.lanes,
                rotation=rotation,
                rows=job.workload.rows,
                count=job.count,
                recorder=recorder,
                clock_ns=clock_ns,
            )
        return OpenLoop(
            make_lane,
            most_lanes=job.lanes,
            rotation=rotation,
            arrivals=share(job.schedule.arrivals(), job.index, job.of),
            recorder=recorder,
            clock_ns=clock_ns,
            make_alarm=new_alarm,
        )

    def _set_window(self, window: Window, at_ns: int) -> None:
        window.begin_ns = at_ns + round(self._job.warmup_s * _SECOND_NS)
        if self._job.duration_s is not None:
            window.end_ns = window.begin_ns + round(self._job.duration_s * _SECOND_NS)

    async def _measure(self, loop: Loop, recorder: Recorder, at_ns: int) -> Tally:
        window = recorder.window
        gc.collect()
        gc.freeze()  # what lives now lives to the end: no need to look through it
        watch, meter = LoopWatch(new_alarm, time.monotonic_ns), UsageMeter()
        try:
            if self._job.schedule is None:  # a schedule has an alarm that is more exact
                await _sleep_until(at_ns)
            loop.start(at_ns)
            await self._until(loop, recorder, window.begin_ns)
            watch.start()
            meter.start()
            await self._until(loop, recorder, window.end_ns)
            meter.stop()
            if self._broken_off.is_set():
                now_ns = time.monotonic_ns()
                window.end_ns = min(window.end_ns or now_ns, now_ns)
            loop.stop()
            await self._drain(loop, recorder)
        finally:
            watch.close()
        return recorder.tally(watch.lags, meter.used, was_stopped=self._broken_off.is_set())

    async def _until(self, loop: Loop, recorder: Recorder, end_ns: int | None) -> None:
        """Let it run until a time (None: no end of its own), its end, or a Stop."""
        told_s = time.monotonic()
        while not (self._broken_off.is_set() or loop.done.is_set()):
            now_ns = time.monotonic_ns()
            if end_ns is not None and now_ns >= end_ns:
                return
            self._expire(loop, now_ns)
            if self._job.progress_s is not None and now_ns / 1e9 - told_s >= self._job.progress_s:
                told_s = now_ns / 1e9
                self._pipe.send(self._progress(loop, recorder))
            left_s = _EXPIRE_S if end_ns is None else (end_ns - now_ns) / _SECOND_NS
            await self._wait(loop, min(left_s, _EXPIRE_S))

    async def _drain(self, loop: Loop, recorder: Recorder) -> None:
        """Wait for the answers that are on their way, as long as patience lasts."""
        end_s = time.monotonic() + self._job.patience_s
        while not loop.done.is_set():
            if self._broken_off.is_set():
                end_s = min(end_s, time.monotonic() + _STOP_S)
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                break
            self._expire(loop, time.monotonic_ns())
            await self._wait(loop, min(left_s, _EXPIRE_S), also_stop=not self._broken_off.is_set())
        if self._broken_off.is_set():
            loop.abandon()
        else:
            loop.expire(time.monotonic_ns() + 1, self._no_answer)

    async def _wait(self, loop: Loop, seconds: float, *, also_stop: bool = True) -> None:
        events = [loop.done, self._broken_off] if also_stop else [loop.done]
        waits = [asyncio.ensure_future(event.wait()) for event in events]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    @property
    def _no_answer(self) -> str:
        return f"no answer within {self._job.patience_s:g} s"

    def _expire(self, loop: Loop, now_ns: int) -> None:
        loop.expire(now_ns - round(self._job.patience_s * _SECOND_NS), self._no_answer)

    def _progress(self, loop: Loop, recorder: Recorder) -> Progress:
        return Progress(
            index=self._job.index,
            fine=recorder.fine,
            failed=recorder.errors.total(),
            in_flight=loop.in_flight,
            recent_ns=tuple(recorder.recent_ns),
        )


async def _sleep_until(at_ns: int) -> None:
    await asyncio.sleep(max(0, at_ns - time.monotonic_ns()) / _SECOND_NS)
