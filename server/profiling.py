"""What the members cost on the devices: measured, remembered from an earlier time, or estimated.

Runs in the process that plans an allocation, before anything is served. Members and devices flow
in, `Measurements` flow out. Each member is measured once per kind of device, in a process of its
own (`workers.profiler`), one after the other so that they don't disturb each other; batch sizes
ascend until they no longer pay or no longer fit. What was measured is kept in the cache, under a
name made of all that it depends on.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from allocator.matrix import AllocationMatrix
from allocator.profiles import Profile, Profiles
from server.compose import KnownMember, compose
from server.config import Config
from server.errors import StartError
from workers.arena import bytes_per_row
from workers.cache import cache_dir, write_atomically
from workers.profiler import ARENA_OFFSET, Measure, Measured, ProfilerError, ProfilerProcess
from workers.spec import ArenaSpec, DeviceSpec, InstanceSpec

__all__ = ["Measurements", "OnProgress", "profile_members"]

#: Part of every cache key: raise it when what is measured, or how, changes.
_REVISION = 1

#: How long a batch size is measured, if its runs are short.
_SECONDS = 0.3
#: No larger batch is tried after one that takes longer, or has fallen so far behind the best.
_LONG_BATCH_S = 2.0
_WORTH = 0.9
#: Two batches of rows must fit a profiler's arena.
_ARENA_BYTES = 256 << 20
#: How many instances run side by side when their influence on each other is measured, at most.
_MOST_NEIGHBOURS = 8

#: How often; the least influence counts, since other processes add to it.
_ROUNDS = 3

#: When a process counts as hung: while it loads; while it measures, if no longer is expected.
_LOAD_S = 300.0
_HANG_S = 60.0
_HANG_FACTOR = 10.0
#: With a time budget: less is not worth starting a process, and none gets less as its share.
_LEAST_S = 0.5
_LEAST_SHARE_S = 2.0

#: A fake member sleeps; around that its worker does what it does for every job.
_FAKE_OVERHEAD_S = 20e-6
_FAKE_BYTES = 1 << 20

# How a member that was not measured is estimated. Weights are held as read and as laid out for
# the device; activations are a multiple of inputs and outputs.
_WEIGHTS_FACTOR = 2
_ACTIVATIONS_FACTOR = 16
_OVERHEAD_S = 100e-6
#: Seconds per row and byte of weights where nothing was measured: as EfficientNets on one core.
_CPU_ROW_S = 1e-9
_CUDA_ROW_S = 2e-11
#: On a CPU, only small networks run faster the bigger the batch.
_SMALL_BYTES = 1 << 20
_LARGE_BATCH = 32
_CPU_BATCH = 4

#: Called with what is being done, how many members (per kind of device) are done, and of how many.
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Measurements:
    """What members cost.

    Attributes:
        profiles: measured, known (fake members) or estimated; what is not there can't be used.
        worker_bytes: by kind of device, what a worker takes there without any member; the most of
            the runtimes in use. Kinds on which nothing was ever measured are not there.
        colocation: by member and kind, by what factor a batch takes longer while the other
            devices of this kind (eight at most, with it) are as busy; 1.0 or more.
        missing: member, kind, and why it can't run there at all or not with larger batches.
        estimated: members and kinds of which nothing could be measured in time.
        from_cache: how many members, per kind, had been measured completely before.
        measured: how many were measured now, at least in part.
    """

    profiles: Profiles
    worker_bytes: Mapping[str, int]
    colocation: Mapping[tuple[str, str], float]
    missing: tuple[tuple[str, str, str], ...]
    estimated: tuple[tuple[str, str], ...]
    from_cache: int
    measured: int


class _Known(msgspec.Struct, frozen=True):
    """What is known of a member on a kind of device: also what a file of the cache holds.

    Attributes:
        measured: ascending.
        ended: whether there is nothing to be gained from larger batches.
        shortfall: why larger batches (or, with nothing measured, any) can't be used; may be empty.
        crowd: how many instances ran side by side for `colocation`, 0 for none yet.
    """

    measured: tuple[Measured, ...] = ()
    worker_bytes: int = 0
    ended: bool = False
    shortfall: str = ""
    crowd: int = 0
    colocation: float = 1.0


@dataclass(frozen=True)
class _Pair:
    """A member on a kind of device.

    Attributes:
        devices: those of the kind; the first is the one to measure on.
        batches: ascending; those for which a profiler's arena has room.
        too_big: why others are not among them; may be empty.
        arena, instance: for the largest of them; None if there is nothing to be measured.
    """

    member: KnownMember
    devices: tuple[DeviceSpec, ...]
    batches: tuple[int, ...]
    too_big: str = ""
    arena: ArenaSpec | None = None
    instance: InstanceSpec | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.member.name, self.devices[0].kind

    @property
    def is_fake(self) -> bool:
        return self.member.source.backend == "fake"

    @property
    def crowd(self) -> tuple[DeviceSpec, ...]:
        """The devices that may disturb each other."""
        return self.devices[: 1 if self.devices[0].is_cuda else _MOST_NEIGHBOURS]

    def is_complete(self, known: _Known) -> bool:
        if self.is_fake or not self.batches:
            return True
        return known.ended and (len(self.crowd) in (1, known.crowd) or not known.measured)


def profile_members(
    config: Config,
    members: Sequence[KnownMember],
    devices: Sequence[DeviceSpec],
    *,
    budget_s: float | None = None,
    fresh: bool = False,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Measurements:
    """Find out what each member costs on each kind of device.

    Args:
        config: the configuration, for the batch sizes.
        members: of this configuration.
        devices: where members may go.
        budget_s: how long that may take, about; it is divided among the members that are not
            known, smallest first, and those of which nothing could be measured within it are
            estimated. None is as long as it takes.
        fresh: measure what is in the cache, too.
        on_progress: called while something is measured.

    Raises:
        ConfigError: if the configuration and a model disagree.
        StartError: if a member can't run on any of the devices.
    """
    pairs = list(_pairs(config, members, devices))
    known = {pair.key: _Known() if fresh else _recall(pair) for pair in pairs}
    pending = [pair for pair in pairs if not pair.is_complete(known[pair.key])]
    pending.sort(key=lambda pair: pair.member.signature.parameter_bytes)
    end = math.inf if budget_s is None else time.monotonic() + budget_s
    measured = 0
    for done, pair in enumerate(pending):
        now = time.monotonic()
        if end - now < _LEAST_S:
            break
        share_end = now + max((end - now) / (len(pending) - done), _LEAST_SHARE_S)
        before = known[pair.key]

        def report(what: str, done: int = done) -> None:
            on_progress(what, done, len(pending))

        after = _Measuring(pair, before, report, share_end=share_end, end=end).run()
        known[pair.key] = after
        if after.measured and after != before:
            measured += 1
            _remember(pair, after)
        if done + 1 == len(pending):
            on_progress("done", len(pending), len(pending))
    asked = sum(not pair.is_fake for pair in pairs)
    return _collect(pairs, known, from_cache=asked - len(pending), measured=measured)


def _pairs(
    config: Config, members: Sequence[KnownMember], devices: Sequence[DeviceSpec]
) -> Iterable[_Pair]:
    kinds: dict[str, list[DeviceSpec]] = {}
    for device in devices:
        kinds.setdefault(device.kind, []).append(device)
    for member in members:
        own = member.config.batch_size
        batches = tuple(sorted(config.placement.batch_sizes)) if own is None else (own,)
        for group in kinds.values():
            # Where the most memory is, the most can be tried.
            ordered = tuple(sorted(group, key=lambda device: -device.memory_bytes))
            if member.source.backend == "fake":
                yield _Pair(member, ordered, batches)
            else:
                yield _arrange(config, member, ordered, batches)


def _arrange(
    config: Config, member: KnownMember, devices: tuple[DeviceSpec, ...], batches: tuple[int, ...]
) -> _Pair:
    """Lay out an arena for the member alone, as the server would."""
    alone = config.model_copy(update={"ensembles": {}})

    def composed(batch: int, budget_bytes: int) -> tuple[ArenaSpec, InstanceSpec]:
        matrix = AllocationMatrix((member.name,), (devices[0].name,), ((batch,),))
        done = compose(alone, [member], matrix, budget_bytes=budget_bytes, offset=ARENA_OFFSET)
        return done.arenas[0], done.instances[devices[0].name][0]

    arena, _ = composed(1, _ARENA_BYTES)
    row = bytes_per_row(arena.views, arena.blocks, arena.ensembles)
    fitting = tuple(batch for batch in batches if 2 * batch * row <= _ARENA_BYTES)
    too_big = ""
    if fitting != batches:
        too_big = f"batch {batches[len(fitting)]} and above: two of them take more than 256 MiB"
    if not fitting:
        return _Pair(member, devices, (), too_big)
    arena, instance = composed(fitting[-1], 2 * fitting[-1] * row + (64 << 10))
    return _Pair(member, devices, fitting, too_big, arena, instance)


class _Measuring:
    """Measures a member on a kind of device, as far as there is time.

    What it begins, it may use all the time there is for: else a member that loads slowly would
    never be known. After the first batch size it begins only what its own share suffices for.
    """

    def __init__(
        self,
        pair: _Pair,
        known: _Known,
        report: Callable[[str], None],
        *,
        share_end: float,
        end: float,
    ) -> None:
        assert pair.arena is not None
        assert pair.instance is not None
        self._pair = pair
        self._arena = pair.arena
        self._instance = pair.instance
        self._known = known
        self._share_end = share_end
        self._end_of_time = end
        self._report = report
        self._load_s = 0.0

    def run(self) -> _Known:
        """Measure what is not known yet, and return all that is known then."""
        name, kind = self._pair.key
        if not self._known.ended and self._may_begin(self._next_batch()):
            self._report(f"{name} on {kind}: loading")
            self._ascend()
        crowd = self._pair.crowd
        if self._known.ended and self._known.measured and len(crowd) not in (1, self._known.crowd):
            self._report(f"{name} on {kind}: on {len(crowd)} devices at once")
            with suppress(ProfilerError, TimeoutError):  # it will be tried again another time
                self._colocate(crowd)
        return self._known

    def _ascend(self) -> None:
        """Measure one batch size after the other until it ends, or the time does."""
        try:
            with self._process(self._pair.devices[0]) as process:
                self._wait_loaded(process)
                while (batch := self._next_batch()) and self._may_begin(batch):
                    self._report(f"{self._pair.key[0]} on {self._pair.key[1]}: batch {batch}")
                    self._add(self._measure(process, batch))
                if not batch:
                    self._update(ended=True)
        except ProfilerError as error:
            self._end(str(error))
        except TimeoutError:
            if time.monotonic() < self._end_of_time:
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
        return not self._known.measured or self._has_time(_measuring_s(self._known, batch))

    def _has_fallen_behind(self, last: Measured) -> bool:
        best = max((_rows_per_s(one) for one in self._known.measured), default=0.0)
        return _rows_per_s(last) < _WORTH * best

    def _measure(self, process: ProfilerProcess, batch: int) -> Measured:
        new = self._ask(process, batch)
        if self._has_fallen_behind(new):
            # Perhaps others were busy for a moment: what ends the search is worth a second look.
            again = self._ask(process, batch)
            fastest = min(new.latency_s, again.latency_s)
            new = msgspec.structs.replace(again, latency_s=fastest)
        return new

    def _ask(self, process: ProfilerProcess, batch: int) -> Measured:
        process.start(Measure(batch, _SECONDS))
        return process.wait_measured(self._timeout_s(self._hung_s(batch)))

    def _hung_s(self, batch: int) -> float:
        return max(_HANG_S, _HANG_FACTOR * _measuring_s(self._known, batch))

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

    def _colocate(self, crowd: Sequence[DeviceSpec]) -> None:
        """Run the best batch size on several devices at once, and compare with one alone.

        Raises:
            ProfilerError, TimeoutError: if that does not work.
        """
        batch = max(self._known.measured, key=_rows_per_s).batch
        rounds_s = 2 * _ROUNDS * _measuring_s(self._known, batch)
        if not self._has_time(self._load_s + rounds_s):
            return
        with ExitStack() as stack:
            processes = [stack.enter_context(self._process(device)) for device in crowd]
            for process in processes:
                self._wait_loaded(process)
            factors = []
            for _ in range(_ROUNDS):
                alone = self._ask(processes[0], batch).latency_s
                for process in processes:
                    process.start(Measure(batch, _SECONDS))
                together = [
                    process.wait_measured(self._timeout_s(self._hung_s(batch))).latency_s
                    for process in processes
                ]
                factors.append(statistics.median(together) / alone)
        self._update(crowd=len(crowd), colocation=max(1.0, min(factors)))

    def _process(self, device: DeviceSpec) -> ProfilerProcess:
        return ProfilerProcess(device, self._instance, self._arena)

    def _wait_loaded(self, process: ProfilerProcess) -> None:
        started = time.monotonic()
        loaded = process.wait_loaded(self._timeout_s(_LOAD_S))
        self._load_s = time.monotonic() - started
        if not self._known.worker_bytes:
            self._update(worker_bytes=loaded.worker_bytes)

    def _timeout_s(self, limit_s: float) -> float:
        return min(limit_s, self._end_of_time - time.monotonic())

    def _has_time(self, seconds: float) -> bool:
        return time.monotonic() + seconds < min(self._share_end, self._end_of_time)

    def _update(self, **changes: object) -> None:
        self._known = msgspec.structs.replace(self._known, **changes)


def _rows_per_s(one: Measured) -> float:
    return one.batch / one.latency_s


def _measuring_s(known: _Known, batch: int) -> float:
    """How long it takes to measure a batch size, going by the one nearest below."""
    below = [one for one in known.measured if one.batch <= batch]
    if not below:
        return 0.0
    run_s = below[-1].latency_s * batch / below[-1].batch
    return 2 * run_s if run_s > 1.0 else run_s + max(_SECONDS, 5 * run_s)


def _collect(
    pairs: Sequence[_Pair],
    known: Mapping[tuple[str, str], _Known],
    *,
    from_cache: int,
    measured: int,
) -> Measurements:
    """Put everything together, and estimate what nothing is known of.

    Raises:
        StartError: if a member can't run anywhere.
    """
    profiles: list[Profile] = []
    worker_bytes: dict[str, int] = {}
    missing: list[tuple[str, str, str]] = []
    estimated: list[tuple[str, str]] = []
    for pair in pairs:
        found = known[pair.key]
        shortfall = found.shortfall or ("" if pair.batches else pair.too_big)
        if found.worker_bytes:
            kind = pair.key[1]
            worker_bytes[kind] = max(worker_bytes.get(kind, 0), found.worker_bytes)
        if shortfall:
            missing.append((*pair.key, shortfall))
        if pair.is_fake:
            profiles += _fake(pair)
        elif found.measured:
            profiles += [
                Profile(*pair.key, one.batch, one.latency_s, one.memory_bytes)
                for one in found.measured
            ]
        elif not shortfall:
            estimated.append(pair.key)
            profiles += _estimate(pair, _row_s_per_byte(pair.devices[0], pairs, known))
    table = Profiles(profiles)
    _check_each_can_run(pairs, table, missing)
    return Measurements(
        profiles=table,
        worker_bytes=worker_bytes,
        colocation={p.key: known[p.key].colocation for p in pairs if table.of(*p.key)},
        missing=tuple(missing),
        estimated=tuple(estimated),
        from_cache=from_cache,
        measured=measured,
    )


def _check_each_can_run(
    pairs: Sequence[_Pair], profiles: Profiles, missing: Sequence[tuple[str, str, str]]
) -> None:
    names = dict.fromkeys(pair.member.name for pair in pairs)
    if stranded := [name for name in names if name not in profiles.members]:
        raise StartError(
            "\n".join(
                f"member {name!r} can't run on any device: "
                + "; ".join(
                    f"{kind}: {reason}" for member, kind, reason in missing if member == name
                )
                for name in stranded
            )
        )


def _fake(pair: _Pair) -> list[Profile]:
    """The profiles of a fake member, which its options tell."""
    options = pair.member.source.fake
    assert options is not None
    latency_s = options.sleep_ms / 1000 + _FAKE_OVERHEAD_S
    return [Profile(*pair.key, batch, latency_s, _FAKE_BYTES) for batch in pair.batches]


def _estimate(pair: _Pair, row_s_per_byte: float) -> list[Profile]:
    """Estimate a member's profiles from the size of its file, inputs and output."""
    signature = pair.member.signature
    small = signature.parameter_bytes < _SMALL_BYTES or pair.devices[0].is_cuda
    most = _LARGE_BATCH if small else _CPU_BATCH
    row_bytes = sum(tensor.row_bytes for tensor in (*signature.inputs, signature.output))
    return [
        Profile(
            *pair.key,
            batch,
            latency_s=_OVERHEAD_S + batch * signature.parameter_bytes * row_s_per_byte,
            memory_bytes=signature.parameter_bytes * _WEIGHTS_FACTOR
            + batch * row_bytes * _ACTIVATIONS_FACTOR,
        )
        for batch in [one for one in pair.batches if one <= most] or pair.batches[:1]
    ]


def _row_s_per_byte(
    device: DeviceSpec, pairs: Sequence[_Pair], known: Mapping[tuple[str, str], _Known]
) -> float:
    """Seconds per row and byte of weights, as the members that were measured on this kind take."""
    seen = [
        min(one.latency_s / one.batch for one in known[pair.key].measured)
        / max(pair.member.signature.parameter_bytes, 1)
        for pair in pairs
        if pair.devices[0].kind == device.kind and known[pair.key].measured
    ]
    if seen:
        return statistics.median(seen)
    return _CUDA_ROW_S if device.is_cuda else _CPU_ROW_S


def _recall(pair: _Pair) -> _Known:
    """Return what the cache knows, nothing if its file is missing or damaged."""
    if pair.instance is None:
        return _Known()
    try:
        known = msgspec.json.decode(_cache_file(pair).read_bytes(), type=_Known)
    except (OSError, msgspec.MsgspecError):
        return _Known()
    batches = tuple(one.batch for one in known.measured)
    plausible = (
        batches == pair.batches[: len(batches)]
        and (known.ended or len(batches) < len(pair.batches))
        and all(one.latency_s > 0 and one.memory_bytes >= 0 for one in known.measured)
        and known.colocation >= 1
    )
    return known if plausible else _Known()


def _remember(pair: _Pair, known: _Known) -> None:
    with suppress(OSError):  # a full disk costs the next start its time, no more
        write_atomically(_cache_file(pair), msgspec.json.encode(known))


def _cache_file(pair: _Pair) -> Path:
    """Return where the measurements of a pair are kept: named by all that they depend on.

    Raises:
        OSError: if the model file is missing or there is no cache.
    """
    assert pair.arena is not None
    assert pair.instance is not None
    device, source = pair.devices[0], pair.instance.source
    runtime = ("torch",) if source.backend == "torch" else ("onnxruntime", "onnxruntime-gpu")
    key = msgspec.json.encode(
        [
            _REVISION,
            _content(Path(source.path)),
            source.backend,
            source.output_name,
            source.declared,
            pair.arena.views,
            pair.instance.bindings,
            pair.instance.meaning,
            device.kind,
            len(device.cores),
            "" if device.is_cuda else _cpu_model(),
            [_version(distribution) for distribution in (*runtime, "numpy")],
            pair.batches,
        ]
    )
    directory = cache_dir() / "profiles"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory / f"{hashlib.sha256(key).hexdigest()}.json"


def _content(path: Path) -> list[str]:
    """The hashes of a model's file and of its external data, which lies beside it."""
    beside = sorted(one for one in path.parent.glob("*data") if one.name.startswith(path.stem))
    digests = []
    for part in (path, *beside):
        with part.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
