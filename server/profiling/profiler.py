"""Measures a member on a kind of device, within the time allowed for it.

Runs in the process that profiles; the member is loaded and run in a child (`ProfilerProcess`), or
in one per device to see how they slow each other down. A target's record flows in, and flows out
with what was measured. The time for all targets is divided into one `TimeAllowance` each.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import msgspec

from server.profiling.comparison import LEAST_BLOCKS, compare
from server.profiling.energy import batch_energy
from server.profiling.lengths import MeasuredLength, measured_lengths
from server.profiling.targets import MEASURING_S, ProfileRecord, ProfileTarget
from workers.profiler.handle import (
    Compare,
    Compared,
    Loaded,
    Measure,
    Measured,
    MeasurePower,
    PowerMeasured,
    ProfilerError,
    ProfilerProcess,
)
from workers.runtime.spec import DeviceSpec

__all__ = ["LEAST_S", "TargetProfiler", "TimeAllowance", "time_allowances"]

#: Less time is not worth starting a process for; no target's share is smaller than the second.
LEAST_S = 0.5
_LEAST_SHARE_S = 2.0
#: Batch sizes are compared in blocks of about so many seconds, until the result is precise, or for
#: so many seconds in all.
_BLOCK_S = 0.1
_COMPARING_S = 8.0
#: How often instances run side by side; the smallest slowdown counts, since others add to it.
_ROUNDS = 3
#: The power of batches is measured for so many seconds: 20 to 50 steps of a GPU's counter, which
#: changes every 20 to 100 ms; that of a CPU has hundreds.
_GPU_POWER_S = 2.0
_CPU_POWER_S = 0.5
#: When a process counts as hung: while it loads; while it measures, if no longer is expected.
_LOAD_S = 300.0
_HANG_S = 60.0
_HANG_FACTOR = 10.0


@dataclass(frozen=True)
class TimeAllowance:
    """A target may begin something until `share_end`; all targets end at `end` (monotonic)."""

    share_end: float
    end: float

    def suffices_for(self, seconds: float) -> bool:
        """Whether something that takes about this long may begin."""
        return time.monotonic() + seconds < min(self.share_end, self.end)

    def timeout_s(self, limit_s: float) -> float:
        """Return how long to wait for something that should not take longer than a limit."""
        return min(limit_s, self.end - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether the time is over for all targets."""
        return time.monotonic() >= self.end


def time_allowances(end: float, targets: int) -> Iterator[TimeAllowance]:
    """Divide the time that is left among the targets that are left, as each begins.

    Yields no more allowances once too little time is left until `end` (monotonic).
    """
    for done in range(targets):
        now = time.monotonic()
        if end - now < LEAST_S:
            return
        yield TimeAllowance(now + max((end - now) / (targets - done), _LEAST_SHARE_S), end)


class TargetProfiler:
    """Measures what is not known of a target, as far as time allows.

    Whatever has begun may use all the time left for all targets: otherwise a member that loads
    slowly would never be measured. After the first batch size it begins only what fits its share.
    """

    def __init__(
        self,
        target: ProfileTarget,
        record: ProfileRecord,
        allowance: TimeAllowance,
        report: Callable[[str], None],
    ) -> None:
        self._target = target
        self._record = record
        self._allowance = allowance
        self._report = report
        self._load_s = 0.0

    def run(self) -> ProfileRecord:
        """Measure what is missing, and return the record with it."""
        if (batch := self._next_batch()) and self._may_begin(batch):
            self._say("loading")
            self._measure_each(iter(self._next_batch, 0))
        self._end_if_complete()
        if self._record.needs_comparison:
            self._say("comparing batch sizes")
            with suppress(ProfilerError, TimeoutError):  # the next profiling retries
                self._compare(self._record.candidates)
        if self._record.ended and self._target.needs_lengths(self._record):
            with suppress(TimeoutError):  # the next profiling retries
                self._measure_lengths()
        if self._record.ended and self._target.needs_energy(self._record):
            self._say("energy")
            with suppress(ProfilerError, TimeoutError):  # the next profiling retries
                self._measure_energy()
        if self._record.ended and self._target.needs_colocation(self._record):
            self._say(f"on {len(self._target.neighbours)} devices at once")
            with suppress(ProfilerError, TimeoutError):  # the next profiling retries
                self._colocate(self._target.neighbours)
        return self._record

    def measure(self, batches: Sequence[int]) -> ProfileRecord:
        """Measure some batch sizes, ascending, and return the record with them."""
        self._say("loading")
        self._measure_each(iter(sorted(batches)))
        self._end_if_complete()
        return self._record

    def _measure_each(self, batches: Iterator[int]) -> None:
        """Measure batch sizes in one process, as long as there is time and none fails."""
        batch = self._target.batches[0]  # what fails to load fails with each
        try:
            with self._process(self._target.devices[0]) as process:
                self._wait_loaded(process)
                for batch in batches:
                    if not self._may_begin(batch):
                        break
                    self._say(f"batch {batch}")
                    self._record = self._with(self._measure_carefully(process, batch))
        except ProfilerError as error:
            self._refuse(batch, str(error))
        except TimeoutError:
            if not self._allowance.is_over:
                self._refuse(batch, "its process hung")

    def _next_batch(self) -> int:
        """Return the batch size to measure next, 0 if there is none."""
        return next(iter(self._record.open_batches(self._target.batches)), 0)

    def _may_begin(self, batch: int) -> bool:
        if not self._record.measured:
            return True
        return self._allowance.suffices_for(self._record.measuring_s(batch))

    def _measure_carefully(self, process: ProfilerProcess, batch: int) -> Measured:
        new = self._measure(process, batch)
        if self._record.has_fallen_behind(new):
            # Other processes may have been busy for a moment: confirm what would end the search.
            again = self._measure(process, batch)
            fastest = min(new.latency_s, again.latency_s)
            new = msgspec.structs.replace(again, latency_s=fastest)
        return new

    def _with(self, new: Measured) -> ProfileRecord:
        """The record with one more batch size, the memory as monotone as in one process."""
        known = sorted((*self._record.measured, new), key=lambda one: one.batch)
        most = itertools.accumulate((one.memory_bytes for one in known), max)
        return msgspec.structs.replace(
            self._record,
            measured=tuple(
                msgspec.structs.replace(one, memory_bytes=memory_bytes)
                for one, memory_bytes in zip(known, most, strict=True)
            ),
        )

    def _refuse(self, batch: int, reason: str) -> None:
        """Note that a batch size can't run, nor larger ones."""
        if batch > self._target.batches[0]:
            reason = f"batch {batch} and above: {reason}"
        self._update(refused=batch, limitation=reason)

    def _end_if_complete(self) -> None:
        """Note that no batch size is left to be measured."""
        if self._record.ended or self._next_batch():
            return
        if len(self._record.measured) == len(self._target.batches):
            self._update(limitation=self._target.batch_limit)
        self._update(ended=True)

    def _compare(self, candidates: Sequence[Measured]) -> None:
        """Run batches of the candidates' sizes in turn, until it is clear which is the best.

        Raises:
            ProfilerError, TimeoutError: if that does not work.
        """
        sizes = [one.batch for one in candidates]
        block_s = max(_BLOCK_S, sum(one.latency_s for one in candidates))
        if not self._allowance.suffices_for(self._load_s + LEAST_BLOCKS * block_s):
            return
        with self._process(self._target.devices[0]) as process:
            self._wait_loaded(process)
            self._run_block(process, sizes, block_s)  # warm-up
            deadline = time.monotonic() + _COMPARING_S
            blocks = [self._run_block(process, sizes, block_s) for _ in range(LEAST_BLOCKS)]
            found = compare(sizes, blocks)
            while (
                not found.is_precise
                and time.monotonic() < deadline
                and self._allowance.suffices_for(block_s)
            ):
                blocks.append(self._run_block(process, sizes, block_s))
                found = compare(sizes, blocks)
        measured = _rescaled(self._record.measured, found.latency_s)
        self._update(measured=measured, noise=found.noise)

    def _run_block(
        self, process: ProfilerProcess, sizes: Sequence[int], block_s: float
    ) -> tuple[float, ...]:
        process.send(Compare(tuple(sizes), _BLOCK_S))
        hung_s = max(_HANG_S, _HANG_FACTOR * block_s)
        return process.wait_reply(Compared, self._allowance.timeout_s(hung_s)).latencies_s

    def _measure_lengths(self) -> None:
        """Run batches of the smallest, the best and the largest size with rows of several lengths.

        Of short rows, a larger batch may be the best than of the longest.

        A member that fails on made-up rows of some length counts as taking the same for all.

        Raises:
            TimeoutError: if it takes too long.
        """
        lengths = measured_lengths(self._target.lengths)
        known = self._record.measured
        batches = sorted({known[0].batch, self._record.best.batch, known[-1].batch})
        needed_s = len(lengths) * sum(map(self._record.measuring_s, batches))
        if not self._allowance.suffices_for(self._load_s + needed_s):
            return
        found = []
        try:
            with self._process(self._target.devices[0]) as process:
                self._wait_loaded(process)
                for length in lengths:
                    self._say(f"rows of {length.size}")
                    for batch in batches:
                        process.send(Measure(batch, MEASURING_S, length.sizes))
                        latency_s = self._wait_measured(process, batch).latency_s
                        found.append(MeasuredLength(batch, length.size, latency_s))
        except ProfilerError:
            best = self._record.best
            found = [MeasuredLength(best.batch, lengths[-1].size, best.latency_s)]
        self._update(lengths=tuple(found))

    def _measure_energy(self) -> None:
        """Measure the power of the idle device, then while batches of each size run.

        Raises:
            ProfilerError, TimeoutError: if that does not work.
        """
        device = self._target.devices[0]
        seconds = _GPU_POWER_S if device.is_cuda else _CPU_POWER_S
        batches = [one.batch for one in self._record.measured]
        needed_s = seconds + sum(seconds + self._record.measuring_s(batch) for batch in batches)
        if not self._allowance.suffices_for(self._load_s + needed_s):
            return
        found = {}
        with self._process(device) as process:
            self._wait_loaded(process)
            for batch in (0, *batches):
                process.send(MeasurePower(batch, seconds))
                hung_s = max(_HANG_S, _HANG_FACTOR * self._record.measuring_s(batch))
                found[batch] = process.wait_reply(PowerMeasured, self._allowance.timeout_s(hung_s))
        self._update(energy=batch_energy(found.pop(0), found))

    def _colocate(self, devices: Sequence[DeviceSpec]) -> None:
        """Run the best batch size on several devices at once, and compare with one alone.

        Raises:
            ProfilerError, TimeoutError: if that does not work.
        """
        batch = self._record.best.batch
        rounds_s = 2 * _ROUNDS * self._record.measuring_s(batch)
        if not self._allowance.suffices_for(self._load_s + rounds_s):
            return
        with ExitStack() as stack:
            processes = [stack.enter_context(self._process(device)) for device in devices]
            for process in processes:
                self._wait_loaded(process)
            factor = min(self._slowdown(processes, batch) for _ in range(_ROUNDS))
        self._update(colocated=len(devices), colocation=max(1.0, factor))

    def _slowdown(self, processes: Sequence[ProfilerProcess], batch: int) -> float:
        alone = self._measure(processes[0], batch).latency_s
        for process in processes:
            process.send(Measure(batch, MEASURING_S))
        together = [self._wait_measured(process, batch).latency_s for process in processes]
        return statistics.median(together) / alone

    def _process(self, device: DeviceSpec) -> ProfilerProcess:
        assert self._target.instance is not None
        assert self._target.arena is not None
        return ProfilerProcess(device, self._target.instance, self._target.arena)

    def _wait_loaded(self, process: ProfilerProcess) -> None:
        started = time.monotonic()
        loaded = process.wait_reply(Loaded, self._allowance.timeout_s(_LOAD_S))
        self._load_s = time.monotonic() - started
        if not self._record.worker_bytes:
            self._update(worker_bytes=loaded.worker_bytes)

    def _measure(self, process: ProfilerProcess, batch: int) -> Measured:
        process.send(Measure(batch, MEASURING_S))
        return self._wait_measured(process, batch)

    def _wait_measured(self, process: ProfilerProcess, batch: int) -> Measured:
        hung_s = max(_HANG_S, _HANG_FACTOR * self._record.measuring_s(batch))
        return process.wait_reply(Measured, self._allowance.timeout_s(hung_s))

    def _say(self, what: str) -> None:
        name, kind = self._target.key
        self._report(f"{name} on {kind}: {what}")

    def _update(self, **changes: object) -> None:
        self._record = msgspec.structs.replace(self._record, **changes)


def _rescaled(measured: Sequence[Measured], latencies: Mapping[int, float]) -> tuple[Measured, ...]:
    """Scale what was measured to the speed of the machine while some sizes were compared."""
    slower = statistics.median(
        latencies[one.batch] / one.latency_s for one in measured if one.batch in latencies
    )
    return tuple(
        msgspec.structs.replace(one, latency_s=latencies.get(one.batch, one.latency_s * slower))
        for one in measured
    )
