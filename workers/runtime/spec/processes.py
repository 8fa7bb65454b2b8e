"""Specs of devices, of the shared memory, and of the processes that use them.

Used in every process; pure. A `WorkerSpec` or `CombinerSpec` is the first line that a child reads.
"""

from __future__ import annotations

import msgspec

from workers.runtime.spec.ensembles import ArenaSpec
from workers.runtime.spec.models import InstanceSpec

__all__ = [
    "Attach",
    "CombinerSpec",
    "Detach",
    "DeviceSpec",
    "GenerationSpec",
    "Load",
    "Loaded",
    "MemorySpec",
    "PausedRule",
    "QueuesSpec",
    "TracingSpec",
    "Unload",
    "Unloaded",
    "WorkerSpec",
]


class DeviceSpec(msgspec.Struct, frozen=True):
    """A device: a GPU or a group of CPU cores, as a whole or a shared part.

    Attributes:
        name: ``cuda:N`` or ``cpu:N``, or the configured name of a virtual device; unique.
        kind: the key of its profiles, e.g. ``cpu-1`` (one core) or ``NVIDIA H200``.
        memory_bytes: the memory that its instances may use together.
        cores: for a CPU device, the core ids it is pinned to (empty for CUDA).
        uuid: for CUDA, its value in CUDA_VISIBLE_DEVICES; empty if unknown.
        pool: devices of the same pool share their memory; empty for a device with its own.
        virtual: whether it is a part of a device; on a GPU its worker enforces `memory_bytes`.
        watts: what it draws above idle while it predicts, as configured: for CUDA in all, else for
            each core; None if nothing was configured.
    """

    name: str
    kind: str
    memory_bytes: int
    cores: tuple[int, ...] = ()
    uuid: str = ""
    pool: str = ""
    virtual: bool = False
    watts: float | None = None

    @property
    def busy_watts(self) -> float | None:
        """What it draws above idle while it predicts, as configured; None if it was not."""
        return None if self.watts is None else self.watts * max(len(self.cores), 1)

    @property
    def is_cuda(self) -> bool:
        """Whether this is a GPU: neither its name nor its kind begins with ``cpu``."""
        return not any(text.lower().startswith("cpu") for text in (self.name, self.kind))

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that its process sets before it imports any runtime.

        A process sees only its own GPU. The order in which CUDA numbers GPUs therefore does not
        matter, and MIG slices work, of which CUDA shows at most one.
        """
        if self.is_cuda:
            return {"CUDA_VISIBLE_DEVICES": self.uuid} if self.uuid else {}
        return {"OMP_NUM_THREADS": str(len(self.cores))} if self.cores else {}

    @property
    def cuda_index(self) -> int:
        """Its CUDA index in a process with its `environment`.

        Raises:
            ValueError: if neither its UUID nor its name identifies a GPU.
        """
        return 0 if self.uuid else int(self.name.removeprefix("cuda:"))


class QueuesSpec(msgspec.Struct, frozen=True):
    """The queues between processes in the shared memory (`workers.runtime.queues`).

    Attributes:
        offset: where it begins in the shared memory, in bytes.
        processes: those that sleep and have a bell; "" for a spare one.
        devices: those whose workers have rings; "" for a spare one.
        bells: the inherited eventfd of each process; empty if ZeroMQ is the bell.
    """

    offset: int = 0
    ring_bytes: int = 0
    processes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    bells: tuple[int, ...] = ()


class MemorySpec(msgspec.Struct, frozen=True):
    """The shared memory as an inherited file descriptor; its first part is for the server's life.

    That part takes `nbytes` and holds the board, with a row for each of `processes` ("" for a spare
    one), and the queues. The arenas of each generation follow (`GenerationSpec`).
    """

    fd: int
    nbytes: int
    processes: tuple[str, ...]
    queues: QueuesSpec = QueuesSpec()

    def with_device(self, slot: int, device: str) -> MemorySpec:
        """Return the spec with a device's worker in a slot; an empty name makes it spare again."""
        queues = self.queues
        position = len(self.processes) - len(queues.devices) + slot
        processes = _with_item(self.processes, position, f"worker {device}" if device else "")
        queues = msgspec.structs.replace(
            queues, processes=processes, devices=_with_item(queues.devices, slot, device)
        )
        return msgspec.structs.replace(self, processes=processes, queues=queues)


class GenerationSpec(msgspec.Struct, frozen=True):
    """The arenas of one deployment, which come and go with it.

    Attributes:
        number: of the deployment; grows with every one.
        offset: where its part of the shared memory begins, in bytes, a multiple of the page size.
        nbytes: the size of that part.
    """

    number: int
    offset: int
    nbytes: int
    arenas: tuple[ArenaSpec, ...]


class Load(msgspec.Struct, frozen=True, tag=True):
    """Supervisor to worker and combiner: serve a generation, too; a worker with these instances.

    Attributes:
        instances: those that are not loaded yet are loaded; may be a generation that is served.
        replaces: a generation without jobs, of whose models only those that are needed here, too,
            stay loaded, to make room; 0 for none.
    """

    generation: GenerationSpec
    instances: tuple[InstanceSpec, ...] = ()
    replaces: int = 0


class Unload(msgspec.Struct, frozen=True, tag=True):
    """Supervisor to worker and combiner: nothing of that generation is needed any more."""

    generation: int


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """Worker or combiner to supervisor: it serves that generation, if there is no error."""

    generation: int
    error: str = ""


class Unloaded(msgspec.Struct, frozen=True, tag=True):
    """Worker or combiner to supervisor: nothing of that generation is left."""

    generation: int


class Attach(msgspec.Struct, frozen=True, tag=True):
    """Supervisor to front-end and combiner: a new device's worker takes a slot of the queues."""

    device: DeviceSpec
    slot: int


class Detach(msgspec.Struct, frozen=True, tag=True):
    """Supervisor to front-end and combiner: a device's worker is gone, and its slot is spare."""

    device: str


class TracingSpec(msgspec.Struct, frozen=True):
    """Where spans are exported to: `endpoint` is the URL of an OTLP/HTTP receiver.

    `sample` is the fraction of the requests without a parent span that are traced, in [0, 1].
    """

    endpoint: str
    service_name: str
    sample: float


class WorkerSpec(msgspec.Struct, frozen=True):
    """All that a worker starts with; `sockets` is the directory of its sockets."""

    device: DeviceSpec
    incarnation: int
    loads: tuple[Load, ...]
    memory: MemorySpec
    sockets: str
    tracing: TracingSpec | None = None


class PausedRule(msgspec.Struct, frozen=True):
    """Custom rules that have crashed combiners recently (see `workers.combiner.rule_guard`).

    `rules` are those of an ensemble, as JSON; they are not run until `until_ns`, monotonic.
    """

    rules: str
    crashes: int
    until_ns: int


class CombinerSpec(msgspec.Struct, frozen=True):
    """All that a combiner starts with; `sockets` is the directory of its sockets."""

    loads: tuple[Load, ...]
    memory: MemorySpec
    sockets: str
    paused: tuple[PausedRule, ...] = ()


def _with_item(items: tuple[str, ...], position: int, item: str) -> tuple[str, ...]:
    return (*items[:position], item, *items[position + 1 :])
