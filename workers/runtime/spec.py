"""What a process is told when it starts: frozen, serialisable descriptions.

Used in every process. The supervisor composes these from the configuration
and hands each child one of them as a line of JSON; nothing here changes while a child lives.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Literal

import msgspec
import numpy as np
from ensembled_client.wire import DTYPES

__all__ = [
    "ArenaSpec",
    "Binding",
    "BlockSpec",
    "CombinerSpec",
    "DeviceSpec",
    "EnsembleSpec",
    "FakeOptions",
    "InstanceSpec",
    "MemorySpec",
    "ModelSignature",
    "ModelSource",
    "OutputMeaning",
    "Preparation",
    "QueuesSpec",
    "Scaling",
    "TensorSpec",
    "TracingSpec",
    "WorkerSpec",
]

OutputMeaning = Literal["logits", "probabilities", "values", "class"]


class TensorSpec(msgspec.Struct, frozen=True, dict=True):
    """A tensor without its batch dimension: `datatype` is the protocol's name, e.g. ``FP32``."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @cached_property
    def dtype(self) -> np.dtype[np.generic]:
        """NumPy's type of one element."""
        return DTYPES[self.datatype]

    @cached_property
    def elements(self) -> int:
        """Elements in one row."""
        return math.prod(self.shape)

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.elements * self.dtype.itemsize


class Preparation(msgspec.Struct, frozen=True):
    """How an image becomes a `uint8` array [size, size, 3], RGB; the part that members can share.

    Attributes:
        size: height and width of the result, in pixels.
        crop: the share of the resized short side that the central crop keeps, in (0, 1].
        interpolation: the resampling filter.
    """

    size: int
    crop: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"


class FakeOptions(msgspec.Struct, frozen=True):
    """The behaviour of a fake member (see `workers.backends.fake`)."""

    inputs: dict[str, tuple[int, ...]]
    outputs: int
    sleep_ms: float = 0.0
    fail: Literal["none", "raise", "exit", "hang", "nan", "alloc"] = "none"
    fail_value: float | None = None
    add: float = 0.0


class ModelSource(msgspec.Struct, frozen=True):
    """Everything a backend needs to load a member's model.

    Attributes:
        member: the member's name, for messages.
        backend: which backend loads it.
        path: the model file (empty for a fake).
        declared: input tensors by the model's own names, for formats that don't describe theirs.
        output_name: which of the model's outputs to use; may be empty if it has only one.
        fake: the behaviour of a fake member, else None.
    """

    member: str
    backend: Literal["onnx", "torch", "fake"]
    path: str = ""
    declared: tuple[TensorSpec, ...] = ()
    output_name: str = ""
    fake: FakeOptions | None = None


class ModelSignature(msgspec.Struct, frozen=True):
    """What inspection found out about a model.

    Attributes:
        inputs: the model's inputs in its own order, by its own names.
        output: the one output used.
        parameter_bytes: the size of its weights (the model file's size, 0 for a fake).
    """

    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    parameter_bytes: int


class DeviceSpec(msgspec.Struct, frozen=True):
    """A device: a GPU or a group of CPU cores, whole or a part that others may use, too.

    Attributes:
        name: ``cuda:N`` or ``cpu:N``, or what the user calls a virtual device; unique.
        kind: what profiles are looked up by, e.g. ``cpu-1`` (one core) or ``NVIDIA H200``.
        memory_bytes: the memory its instances may take together.
        cores: for a CPU device, the core ids it is pinned to (empty for CUDA).
        uuid: for CUDA, what CUDA_VISIBLE_DEVICES calls it; empty if that is not known.
        pool: devices that name the same pool share their memory; empty for memory of its own.
        virtual: whether it is a part of a device; on a GPU, its worker enforces `memory_bytes`.
    """

    name: str
    kind: str
    memory_bytes: int
    cores: tuple[int, ...] = ()
    uuid: str = ""
    pool: str = ""
    virtual: bool = False

    @property
    def is_cuda(self) -> bool:
        """Whether this is a GPU: all are whose name or kind does not begin with ``cpu``."""
        return not any(text.lower().startswith("cpu") for text in (self.name, self.kind))

    @property
    def environment(self) -> dict[str, str]:
        """What its process puts into its environment before it imports any runtime.

        A process sees its own GPU alone. So the order in which CUDA numbers GPUs does not matter,
        and MIG slices work, of which CUDA shows one at most.
        """
        if self.is_cuda:
            return {"CUDA_VISIBLE_DEVICES": self.uuid} if self.uuid else {}
        return {"OMP_NUM_THREADS": str(len(self.cores))} if self.cores else {}

    @property
    def cuda_index(self) -> int:
        """By what number CUDA knows it in a process that has set up its `environment`.

        Raises:
            ValueError: if it is not a GPU, or neither its UUID nor its name tells which one.
        """
        return 0 if self.uuid else int(self.name.removeprefix("cuda:"))


class BlockSpec(msgspec.Struct, frozen=True):
    """The prediction areas of members whose outputs agree: [members, slots, *shape]."""

    members: tuple[int, ...]
    datatype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one member's prediction of one row."""
        return TensorSpec("", self.datatype, self.shape).row_bytes


class EnsembleSpec(msgspec.Struct, frozen=True, dict=True):
    """One combination over the members of an arena (a member addressed by itself is one, too).

    Attributes:
        name: the model's name on the wire.
        members: indices into the arena's members, in the ensemble's order.
        rule: name of the combination rule.
        weights: one per member for a weighted rule, else empty.
        quorum: the fewest members an answer may rest on.
        output: the combined answer of one row.
        scores: names of the scores that tell how much its members agree
        (`workers.combiner.scores`). columns: where the classes of its members differ, per member:
        for each of the ensemble's
            classes its column in that member's prediction, or -1; empty if all are the same.
        trim: for `trimmed_mean`, the share of the members cut at each end, in [0, 0.5).
        meta: for `stack`, its meta-model.
        directory: for a user's own rule, where it is imported from beside the installed packages.
        prediction: what its members predict of one row, where that is not like `output`.
        stages: of a cascade, the masks of the members asked up to each stage; else empty.
        thresholds: after each stage but the last, how sure an answer must be (its largest
            probability) for the row to leave the cascade.
    """

    name: str
    members: tuple[int, ...]
    rule: str
    weights: tuple[float, ...]
    quorum: int
    output: TensorSpec
    scores: tuple[str, ...] = ()
    columns: tuple[tuple[int, ...], ...] = ()
    trim: float = 0.0
    meta: ModelSource | None = None
    directory: str = ""
    prediction: TensorSpec | None = None
    stages: tuple[int, ...] = ()
    thresholds: tuple[float, ...] = ()

    @cached_property
    def mask(self) -> int:
        """The members as a bit mask."""
        return sum(1 << member for member in self.members)

    @cached_property
    def predicted(self) -> TensorSpec:
        """What its members predict of one row, in the ensemble's classes."""
        return self.prediction or self.output

    @property
    def needs_all(self) -> bool:
        """Whether its rule combines all of its members or none."""
        return self.meta is not None


class ArenaSpec(msgspec.Struct, frozen=True):
    """The layout of one input signature's part of the shared memory (see `workers.runtime.arena`).

    Attributes:
        offset: where it begins in the shared memory, in bytes.
        segments: how many segments.
        segment_rows: rows of one segment; a range never crosses a segment.
        views: the stored inputs of one row.
        members: names; a member's index is its bit in every mask.
        blocks: where predictions are written.
        ensembles: the combinations over these members.
    """

    offset: int
    segments: int
    segment_rows: int
    views: tuple[TensorSpec, ...]
    members: tuple[str, ...]
    blocks: tuple[BlockSpec, ...]
    ensembles: tuple[EnsembleSpec, ...]

    @property
    def capacity(self) -> int:
        """Slots in the arena, in rows."""
        return self.segments * self.segment_rows


class Scaling(msgspec.Struct, frozen=True):
    """What a worker does to stored pixels: ``(x - mean) / std`` as FP32, per channel."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layout: Literal["nchw", "nhwc"]


class Binding(msgspec.Struct, frozen=True):
    """Where one input of a model comes from: a view of the arena, scaled if it holds pixels."""

    view: int
    scaling: Scaling | None = None


class InstanceSpec(msgspec.Struct, frozen=True):
    """A non-zero cell of the allocation matrix: a member loaded on a device with its batch size.

    Attributes:
        bindings: where the model's inputs come from, in its own order, which `signature` gives;
            what is stored in another type than the model's is converted.
        meaning: what the model's output means.
        temperature: divides logits; sharpens (below 1) or softens (above 1) probabilities.
        classes: for an output that is the index of a class, how many classes there are.
    """

    arena: int
    member: int
    batch: int
    source: ModelSource
    signature: ModelSignature
    bindings: tuple[Binding, ...]
    meaning: OutputMeaning
    temperature: float = 1.0
    classes: int = 0


class QueuesSpec(msgspec.Struct, frozen=True):
    """The block of the shared memory with the queues between processes (`workers.runtime.queues`).

    Attributes:
        offset: where it begins in the shared memory, in bytes.
        ring_bytes: the capacity of each ring.
        processes: those that sleep and are woken.
        devices: those whose workers have rings.
        bells: the inherited eventfd of each process; empty if ZeroMQ wakes them.
    """

    offset: int = 0
    ring_bytes: int = 0
    processes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    bells: tuple[int, ...] = ()


class MemorySpec(msgspec.Struct, frozen=True):
    """The shared memory as an inherited file descriptor, and what lies in it."""

    fd: int
    nbytes: int
    processes: tuple[str, ...]
    arenas: tuple[ArenaSpec, ...]
    queues: QueuesSpec = QueuesSpec()


class TracingSpec(msgspec.Struct, frozen=True):
    """Where spans go.

    Attributes:
        endpoint: URL that takes OTLP/HTTP.
        service_name: what the spans say they are from.
        sample: share of the requests without a parent that are traced, in [0, 1].
    """

    endpoint: str
    service_name: str
    sample: float


class WorkerSpec(msgspec.Struct, frozen=True):
    """All a worker knows: its device, its instances, the arenas and where the sockets are."""

    device: DeviceSpec
    incarnation: int
    instances: tuple[InstanceSpec, ...]
    memory: MemorySpec
    sockets: str
    tracing: TracingSpec | None = None


class PausedRule(msgspec.Struct, frozen=True):
    """A user's own rule that has ended combiners (see `workers.combiner.rule_guard`).

    Attributes:
        code: whose it is.
        deaths: how many of late.
        until_ns: it is left alone until then, monotonic.
    """

    code: int
    deaths: int
    until_ns: int


class CombinerSpec(msgspec.Struct, frozen=True):
    """All a combiner knows."""

    memory: MemorySpec
    sockets: str
    paused: tuple[PausedRule, ...] = ()
