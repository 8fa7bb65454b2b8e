"""The `devices` and `placement` sections: what predictions run on, and how an allocation is found.

Runs in the process that reads the configuration file; the sections flow in as YAML values, and out
as frozen models.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

from server.config.base import Bytes, Distinct, Section

__all__ = ["DeviceConfig", "PlacementConfig", "device_problems"]

_DEVICE = re.compile(r"(cpu|cuda):(0|[1-9][0-9]*)")
_SOURCE = re.compile(r"cpu|cuda:(0|[1-9][0-9]*)")
#: Names of virtual devices are parts of process titles and of allocation files.
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_ONLY_FOR = {"arrival_rows_s": "latency", "deadline_ms": "latency", "min_rows_per_s": "energy"}
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
#: Ten times 0.1 is not 1.
_ROUNDING = 1e-9


class DeviceConfig(Section):
    """A device that runs predictions: a GPU, a group of CPU cores, or a part of one of these."""

    name: str
    """`cuda:N`, where N is the index of the GPU, or `cpu:N`; any name with `part_of`."""
    part_of: str | None = None
    """`cuda:N` or `cpu` makes the device virtual: a process of its own on shared hardware."""
    cores: Distinct[NonNegativeInt] | None = None
    """Core ids, for CPU devices only; if absent, all cores. Virtual devices may share cores."""
    memory_bytes: Bytes | None = None
    """Memory for all of its instances, e.g. `4GiB`; if absent, what is available."""
    memory_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """For a part of a GPU instead of `memory_bytes`: its share of the GPU's free memory."""
    watts: PositiveFloat | None = None
    """Watts that it draws above idle while it predicts: a CPU device for each core, a GPU in all.
    Energy is estimated from it where the host has no meter (NVML, RAPL)."""

    @property
    def source(self) -> str:
        """The physical device: `part_of`, or the device itself."""
        return self.part_of or self.name

    @property
    def is_cuda(self) -> bool:
        """Whether this is a GPU, or a part of one."""
        return self.source.startswith("cuda:")

    @field_validator("part_of")
    @classmethod
    def _check_source(cls, source: str | None) -> str | None:
        if source is not None and not _SOURCE.fullmatch(source):
            raise ValueError(f"should be cpu or cuda:N, not {source!r}")
        return source

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = [*(self._part_problems() if self.part_of else self._whole_problems())]
        if self.is_cuda and self.cores is not None:
            problems.append("cores are for CPU devices only, remove them")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _whole_problems(self) -> Iterator[str]:
        if not _DEVICE.fullmatch(self.name):
            yield (
                f"name should be cpu:N or cuda:N, not {self.name!r} "
                "(part_of says what a device of another name is a part of)"
            )
        elif self.memory_fraction is not None:
            yield "memory_fraction is for parts of a GPU, name it as part_of or give memory_bytes"

    def _part_problems(self) -> Iterator[str]:
        if not _PART.fullmatch(self.name):
            yield (
                "name should consist of letters, digits, '.', '_', ':' and '-', start with a "
                f"letter or a digit, and be no longer than 64 characters, not {self.name!r}"
            )
        # Logs and allocation files identify a device by its name.
        other = "cpu" if self.is_cuda else "cuda"
        if self.name.lower().startswith(other):
            yield f"name {self.name!r} begins like that of another device than {self.part_of}"
        if not self.is_cuda:
            if self.memory_fraction is not None:
                yield "memory_fraction is for parts of a GPU, give memory_bytes"
        elif (self.memory_fraction is None) == (self.memory_bytes is None):
            yield "a part of a GPU needs memory_fraction or memory_bytes, and not both"


class PlacementConfig(Section):
    """How members are profiled and an `auto` allocation is searched for."""

    batch_sizes: Distinct[Annotated[int, Field(ge=1, le=1024)]] = _BATCH_SIZES
    """Batch sizes that are profiled and may be chosen; a member's `batch_size` overrides them."""
    profile_s: NonNegativeFloat = 30.0
    """Seconds that `serve` may spend on profiling members without a cached profile; 0 is none."""
    threads: Annotated[
        Annotated[Literal["device", "auto"], Tag("<name>")]
        | Annotated[Distinct[PositiveInt], Tag("<list>")],
        Discriminator(lambda given: "<list>" if isinstance(given, list | tuple) else "<name>"),
    ] = "device"
    """How many cores an instance on a CPU has. `device`: all of its device. Otherwise the search
    may divide each CPU device into workers of so many cores: of 1, 2, 4, ... or all of them
    (`auto`), or of those in a list such as `[1, 4]`; and `devices: auto` has one device of up to
    four cores instead of one for each. Every number is profiled."""
    time_limit_s: PositiveFloat = 10.0
    """Seconds that the search for an allocation may take."""
    spare_memory: Literal["fill", "leave"] = "fill"
    """Whether members get further instances in spare memory: these take over at once when a worker
    dies, and let a single request spread over more devices."""
    objective: Literal["throughput", "latency", "energy"] = "throughput"
    """What the allocation is optimized for: most rows per second, fewest late answers, or fewest
    joules per row."""
    min_rows_per_s: PositiveFloat | None = None
    """For `energy`: how many rows per second must be possible."""
    arrival_rows_s: PositiveFloat | None = None
    """For `latency`: how many rows arrive per second."""
    deadline_ms: PositiveFloat | None = None
    """For `latency`: when an answer is late; if absent, the 99th percentile is minimized."""
    follow: bool = False
    """Whether the allocation follows the traffic: another one is served as soon as it could do
    clearly more of what is asked for, and when a device is lost or has returned."""
    follow_gain: Annotated[float, Field(ge=0.02, le=1)] = 0.1
    """By which share more rows per second must be possible for a change, beyond its cost."""
    follow_window_s: Annotated[float, Field(ge=5, le=86400)] = 60.0
    """The traffic of so many seconds counts; a mix that lasts half of that changes nothing."""
    follow_pause_s: Annotated[float, Field(ge=0, le=86400)] = 120.0
    """Seconds after a change in which traffic makes no further one."""
    follow_payback_s: Annotated[float, Field(ge=10, le=86400)] = 600.0
    """What a change costs (the time that devices load models in) counts as a share of so many
    seconds."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.objective == "latency" and self.arrival_rows_s is None:
            raise ValueError("objective latency needs arrival_rows_s")
        if self.objective == "energy" and self.min_rows_per_s is None:
            raise ValueError("objective energy needs min_rows_per_s")
        for key, objective in _ONLY_FOR.items():
            if getattr(self, key) is not None and self.objective != objective:
                raise ValueError(f"{key} is for objective {objective} only, remove it")
        if self.objective != "throughput" and self.follow:
            raise ValueError("follow is for objective throughput only, remove one of them")
        if not self.follow:
            for key in sorted(self.model_fields_set):
                if key.startswith("follow_"):
                    raise ValueError(f"{key} has no effect without follow: true, remove it")
        return self


def device_problems(devices: Sequence[DeviceConfig]) -> Iterator[str]:
    """Yield the conflicts between entries of `devices`, a line each."""
    for name, count in Counter(device.name for device in devices).items():
        if count > 1:
            yield f"devices: {name} is listed more than once"
    yield from _core_problems([device for device in devices if not device.is_cuda])
    yield from _gpu_problems([device for device in devices if device.is_cuda])


def _core_problems(cpus: Sequence[DeviceConfig]) -> Iterator[str]:
    owners: dict[int, DeviceConfig] = {}
    for device in cpus:
        for core in device.cores or ():
            owner = owners.setdefault(core, device)
            if owner.name != device.name and not (owner.part_of and device.part_of):
                yield (
                    f"devices: core {core} belongs to {owner.name} and to {device.name} "
                    "(only devices with `part_of: cpu` may share it)"
                )
    if len(cpus) > 1 and not all(device.part_of for device in cpus):
        for device in cpus:
            if device.cores is None:
                yield f"devices: {device.name} needs cores, since it shares the CPU"


def _gpu_problems(gpus: Sequence[DeviceConfig]) -> Iterator[str]:
    whole = {device.name for device in gpus if not device.part_of}
    parts: defaultdict[str, list[DeviceConfig]] = defaultdict(list)
    for device in gpus:
        if device.part_of:
            parts[device.part_of].append(device)
    for gpu, devices in parts.items():
        names = " and ".join(device.name for device in devices)
        if gpu in whole:
            yield f"devices: {gpu} is listed as a whole and in parts ({names}), remove one of them"
        fraction = sum(device.memory_fraction or 0.0 for device in devices)
        if fraction > 1 + _ROUNDING:
            total = f"adds up to {fraction:g}, {gpu} has only 1 to share"
            yield f"devices: memory_fraction of {names} {total}"
