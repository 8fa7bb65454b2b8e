"""Measures a member on a kind of device, as far as there is time.

Runs in the process that profiles; the member is loaded and run in a child (`ProfilerProcess`), or
in one per device to see how they disturb each other. What is known of a pair flows in, and flows
out with what was measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress

import msgspec

from server.profiling.allowance import Allowance
from server.profiling.comparison import LEAST_BLOCKS, compare
from server.profiling.known import MEASURING_S, Known, rows_per_s
from server.profiling.pairs import Pair
from workers.profiler.handle import ProfilerError, ProfilerProcess
from workers.profiler.messages import Compare, Measure, Measured
from workers.runtime.spec import DeviceSpec

__all__ = ["Measuring"]

#: No larger batch is tried after one that takes longer, or has fallen so far behind the best.
_LONG_BATCH_S = 2.0
_WORTH = 0.9
#: Batch sizes are compared in blocks of so many seconds, about, until that is precise, or for so
#: many in all.
_BLOCK_S = 0.1
_COMPARING_S = 8.0
#: How often instances run side by side; the least influence counts, since others add to it.
_ROUNDS = 3
#: When a process counts as hung: while it loads; while it measures, if no longer is expected.
_LOAD_S = 300.0
_HANG_S = 60.0
_HANG_FACTOR = 10.0


class Measuring:
    """Measures a member on a kind of device, as far as there is time.

    What it begins, it may use all the time there is for: else a member that loads slowly would
    never be known. After the first batch size it begins only what its own share suffices for.

    Args:
        pair: the member on a kind of device, with something to be measured.
        known: what is known already.
        allowance: how much time there is.
        report: called with what is being done.
    """

    def __init__(
        self, pair: Pair, known: Known, allowance: Allowance, report: Callable[[str], None]
    ) -> None:
        assert pair.arena is not None
        assert pair.instance is not None
        self._pair = pair
        self._arena = pair.arena
        self._instance = pair.instance
        self._known = known
        self._allowance = allowance
        self._report = report
        self._load_s = 0.0

    def run(self) -> Known:
        """Measure what is not known yet, and return all that is known then."""
        if not self._known.ended and self._may_begin(self._next_batch()):
            self._say("loading")
            self._ascend()
        if self._known.needs_comparison:
            self._say("comparing batch sizes")
            with suppress(ProfilerError, TimeoutError):  # it will be tried again another time
                self._compare(self._known.rivals)
        if self._known.ended and self._pair.needs_crowd(self._known):
            self._say(f"on {len(self._pair.crowd)} devices at once")
            with suppress(ProfilerError, TimeoutError):  # it will be tried again another time
                self._colocate(self._pair.crowd)
        return self._known

    def _ascend(self) -> None:
        """Measure one batch size after the other until it ends, or the time does."""
        try:
            with self._process(self._pair.devices[0]) as process:
                self._wait_loaded(process)
                while (batch := self._next_batch()) and self._may_begin(batch):
                    self._say(f"batch {batch}")
                    self._add(self._measure(process, batch))
                if not batch:
                    self._update(ended=True)
        except ProfilerError as error:
            self._end(str(error))
        except TimeoutError:
            if not self._allowance.is_over:
                self._end("its process hung")

    def _next_batch(self) -> int:
        """Return the batch size to measure next, 0 if there is none."""
        known, batches = self._known.measured, self._pair.batches
        if known and (known[-1].latency_s > _LONG_BATCH_S or self._has_fallen_behind(known[-1])):
            return 0
        if len(known) < len(batches):
            return batches[len(known)]
        self._update(shortfall=self._pair.too_big)
        return 0

    def _may_begin(self, batch: int) -> bool:
        if not self._known.measured:
            return True
        return self._allowance.suffices_for(self._known.measuring_s(batch))

    def _has_fallen_behind(self, last: Measured) -> bool:
        best = max(map(rows_per_s, self._known.measured), default=0.0)
        return rows_per_s(last) < _WORTH * best

    def _measure(self, process: ProfilerProcess, batch: int) -> Measured:
        new = self._ask(process, batch)
        if self._has_fallen_behind(new):
            # Perhaps others were busy for a moment: what ends the search is worth a second look.
            again = self._ask(process, batch)
            fastest = min(new.latency_s, again.latency_s)
            new = msgspec.structs.replace(again, latency_s=fastest)
        return new

    def _add(self, new: Measured) -> None:
        before = self._known.measured
        if before:  # perhaps measured in another process: keep it monotone
            most = max(before[-1].memory_bytes, new.memory_bytes)
            new = msgspec.structs.replace(new, memory_bytes=most)
        self._update(measured=(*before, new))

    def _end(self, reason: str) -> None:
        tried = self._pair.batches[len(self._known.measured)]
        if self._known.measured:
            reason = f"batch {tried} and above: {reason}"
        self._update(ended=True, shortfall=reason)

    def _compare(self, rivals: Sequence[Measured]) -> None:
        """Run batches of the sizes that may be the best in turn, until it is clear which is.

        Raises:
            ProfilerError, TimeoutError: if that does not work.
        """
        sizes = [one.batch for one in rivals]
        block_s = max(_BLOCK_S, sum(one.latency_s for one in rivals))
        if not self._allowance.suffices_for(self._load_s + LEAST_BLOCKS * block_s):
            return
        with self._process(self._pair.devices[0]) as process:
            self._wait_loaded(process)
            self._run_in_turn(process, sizes, block_s)  # warm
            enough = time.monotonic() + _COMPARING_S
            blocks = [self._run_in_turn(process, sizes, block_s) for _ in range(LEAST_BLOCKS)]
            found = compare(sizes, blocks)
            while (
                not found.is_precise
                and time.monotonic() < enough
                and self._allowance.suffices_for(block_s)
            ):
                blocks.append(self._run_in_turn(process, sizes, block_s))
                found = compare(sizes, blocks)
        measured = _rescaled(self._known.measured, found.latency_s)
        self._update(measured=measured, noise=found.noise)

    def _run_in_turn(
        self, process: ProfilerProcess, sizes: Sequence[int], block_s: float
    ) -> tuple[float, ...]:
        process.start(Compare(tuple(sizes), _BLOCK_S))
        hung_s = max(_HANG_S, _HANG_FACTOR * block_s)
        return process.wait_compared(self._allowance.timeout_s(hung_s)).latencies_s

    def _colocate(self, crowd: Sequence[DeviceSpec]) -> None:
        """Run the best batch size on several devices at once, and compare with one alone.

        Raises:
            ProfilerError, TimeoutError: if that does not work.
        """
        batch = self._known.best.batch
        rounds_s = 2 * _ROUNDS * self._known.measuring_s(batch)
        if not self._allowance.suffices_for(self._load_s + rounds_s):
            return
        with ExitStack() as stack:
            processes = [stack.enter_context(self._process(device)) for device in crowd]
            for process in processes:
                self._wait_loaded(process)
            factor = min(self._slowdown(processes, batch) for _ in range(_ROUNDS))
        self._update(crowd=len(crowd), colocation=max(1.0, factor))

    def _slowdown(self, processes: Sequence[ProfilerProcess], batch: int) -> float:
        alone = self._ask(processes[0], batch).latency_s
        for process in processes:
            self._start(process, batch)
        together = [self._wait_measured(process, batch).latency_s for process in processes]
        return statistics.median(together) / alone

    def _process(self, device: DeviceSpec) -> ProfilerProcess:
        return ProfilerProcess(device, self._instance, self._arena)

    def _wait_loaded(self, process: ProfilerProcess) -> None:
        started = time.monotonic()
        loaded = process.wait_loaded(self._allowance.timeout_s(_LOAD_S))
        self._load_s = time.monotonic() - started
        if not self._known.worker_bytes:
            self._update(worker_bytes=loaded.worker_bytes)

    def _ask(self, process: ProfilerProcess, batch: int) -> Measured:
        self._start(process, batch)
        return self._wait_measured(process, batch)

    def _start(self, process: ProfilerProcess, batch: int) -> None:
        process.start(Measure(batch, MEASURING_S))

    def _wait_measured(self, process: ProfilerProcess, batch: int) -> Measured:
        hung_s = max(_HANG_S, _HANG_FACTOR * self._known.measuring_s(batch))
        return process.wait_measured(self._allowance.timeout_s(hung_s))

    def _say(self, what: str) -> None:
        name, kind = self._pair.key
        self._report(f"{name} on {kind}: {what}")

    def _update(self, **changes: object) -> None:
        self._known = msgspec.structs.replace(self._known, **changes)


def _rescaled(measured: Sequence[Measured], latencies: Mapping[int, float]) -> tuple[Measured, ...]:
    """What was measured, as it would have been when some of the sizes were compared."""
    slower = statistics.median(
        latencies[one.batch] / one.latency_s for one in measured if one.batch in latencies
    )
    return tuple(
        msgspec.structs.replace(one, latency_s=latencies.get(one.batch, one.latency_s * slower))
        for one in measured
    )
