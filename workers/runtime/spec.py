"""The specs that processes start with: frozen, serialisable descriptions.

Used in every process. The supervisor composes them from the configuration and sends each child one
of them as a line of JSON; none of them changes while a child lives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import msgspec
import numpy as np
from ensembled_client.wire import DTYPES

__all__ = [
    "ArenaSpec",
    "AugmentationSpec",
    "Binding",
    "BlockSpec",
    "COMBINED",
    "CombinerSpec",
    "DeviceSpec",
    "EnsembleSpec",
    "FakeOptions",
    "InputLimit",
    "InstanceSpec",
    "MemorySpec",
    "ModelSignature",
    "ModelSource",
    "OutputKind",
    "OutputSpec",
    "PausedRule",
    "PredictionSpec",
    "Preparation",
    "PythonSource",
    "QueuesSpec",
    "RuleSpec",
    "Scaling",
    "Spread",
    "TensorSpec",
    "TracingSpec",
    "VALUE_SCORES",
    "Variant",
    "WorkerSpec",
    "symbols_of",
    "variable_symbols",
]

#: The name by which clients can always ask for the main output of a model.
COMBINED = "output"

#: What an output of a model means; `workers.worker.postprocess` has the formulas.
OutputKind = Literal[
    "logits",
    "probabilities",
    "binary",
    "binary_logits",
    "class",
    "values",
    "normal",
    "quantiles",
]
#: How a model describes the spread of a normal distribution.
Spread = Literal["variance", "std", "log_variance"]

#: The uncertainty scores of members that predict other values than classes.
VALUE_SCORES = ("variance",)

_UINT8 = np.dtype(np.uint8)


class TensorSpec(msgspec.Struct, frozen=True, dict=True):
    """A tensor without its batch dimension: `datatype` is the protocol's name, e.g. ``FP32``.

    Attributes:
        shape: -1 at a variable dimension, whose size each row has for itself.
        max_shape: the largest sizes, for a tensor with variable dimensions; else empty.
        symbols: the name of each variable dimension, "" for fixed ones; equal names are equal
            sizes. For BYTES, a last one names the number of bytes. Empty for fixed tensors.
        max_bytes: for BYTES, the most bytes of a row in the protocol's encoding: the elements, each
            after its length (uint32).
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    max_shape: tuple[int, ...] = ()
    symbols: tuple[str, ...] = ()
    max_bytes: int = 0

    @cached_property
    def dtype(self) -> np.dtype[np.generic]:
        """NumPy's type of one stored element; BYTES are stored as their encoding."""
        return _UINT8 if self.datatype == "BYTES" else DTYPES[self.datatype]

    @cached_property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of the array that has space for any row."""
        return (self.max_bytes,) if self.datatype == "BYTES" else self.max_shape or self.shape

    @cached_property
    def elements(self) -> int:
        """Stored elements of the largest row."""
        return math.prod(self.stored_shape)

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of the largest row."""
        return self.elements * self.dtype.itemsize

    def sized(self, sizes: Mapping[str, int]) -> TensorSpec:
        """Return the spec with other largest sizes: those of `sizes`, by symbol."""
        if not self.symbols:
            return self
        symbols = self.symbols
        if self.datatype == "BYTES":
            return msgspec.structs.replace(self, max_bytes=sizes[symbols[-1]])
        largest = zip(self.shape, symbols, strict=True)
        bounds = tuple(sizes[symbol] if symbol else size for size, symbol in largest)
        return msgspec.structs.replace(self, max_shape=bounds)

    def without(self, axis: int) -> TensorSpec:
        """Return the spec without an axis, counted from the end."""

        def cut(sizes: tuple[Any, ...]) -> tuple[Any, ...]:
            return (*sizes[:axis], *sizes[len(sizes) + axis + 1 :]) if sizes else ()

        shape, largest = cut(self.shape), cut(self.max_shape)
        own = msgspec.structs.replace(
            self, shape=shape, max_shape=largest, symbols=cut(self.symbols)
        )
        is_fixed = not any(own.symbols)
        return msgspec.structs.replace(own, max_shape=(), symbols=()) if is_fixed else own

    def own_shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape of a row of these sizes, by symbol."""
        return self.sized(sizes).stored_shape if self.symbols else self.stored_shape

    def renamed(self, symbols: Mapping[str, str]) -> TensorSpec:
        """Return the spec with other names of its symbols."""
        own = tuple(symbols[symbol] if symbol else "" for symbol in self.symbols)
        return msgspec.structs.replace(self, symbols=own) if own else self

    @cached_property
    def limits(self) -> dict[str, int]:
        """The largest size of each symbol."""
        if not self.symbols:
            return {}
        is_text = self.datatype == "BYTES"
        largest = (*self.shape, self.max_bytes) if is_text else self.max_shape
        return {symbol: size for symbol, size in zip(self.symbols, largest, strict=True) if symbol}


class Preparation(msgspec.Struct, frozen=True):
    """How an image becomes a `uint8` array [side, side, 3], RGB; members with equal ones share it.

    Attributes:
        size: height and width of the central crop, in pixels.
        crop: the fraction of the resized short side that it keeps, in (0, 1].
        margin: pixels of the resized image that are stored on each side of it.
    """

    size: int
    crop: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    margin: int = 0

    @property
    def side(self) -> int:
        """Height and width of what is stored, in pixels."""
        return self.size + 2 * self.margin


class FakeOptions(msgspec.Struct, frozen=True):
    """The behaviour of a fake member (see `workers.backends.fake`).

    `outputs` are the elements of its only output, or the shape of each one without the batch.
    """

    inputs: dict[str, tuple[int, ...]]
    outputs: int | dict[str, tuple[int, ...]]
    sleep_ms: float = 0.0
    fail: Literal["none", "raise", "exit", "hang", "nan", "alloc"] = "none"
    fail_value: float | None = None
    add: float = 0.0


class InputLimit(msgspec.Struct, frozen=True):
    """The configured largest size of one of a model's inputs, by the model's own name.

    Attributes:
        max_shape: of all dimensions or of the variable ones, without the batch; may be empty.
        max_bytes: for BYTES, the most bytes of a row's elements together; 0 if not configured.
    """

    name: str
    max_shape: tuple[int, ...] = ()
    max_bytes: int = 0


class PythonSource(msgspec.Struct, frozen=True):
    """A Python object as a member: a user's, or an adapter to another library's models.

    Attributes:
        target: ``package.module:NAME``, or ``FILE.py:NAME`` with an absolute path.
        args: keyword arguments that make it.
        directory: where modules are looked up after the installed packages; empty for an adapter.
        weights: the file of its weights, may be empty.
        compile: whether `torch.compile` compiles a torch module.
        extra: for an adapter, the extra of this package that installs what it needs.
        packages: for an adapter, the distributions of that library.
    """

    target: str
    args: dict[str, Any] = {}
    directory: str = ""
    weights: str = ""
    compile: bool = False
    extra: str = ""
    packages: tuple[str, ...] = ()


class FileStamp(msgspec.Struct, frozen=True):
    """A file of a model as it was when the server read it first."""

    path: str
    nbytes: int
    mtime_ns: int


class ModelSource(msgspec.Struct, frozen=True):
    """Everything a backend needs to load a member's model.

    Attributes:
        member: its name, for messages.
        path: the model file or directory (empty for a fake, and for a user's Python class).
        declared: input tensors by the model's own names, for formats that don't describe theirs.
        outputs: the names of the model's outputs to use, in the order of its signature; may be
            empty if it has only one.
        padded: the largest shape, without the batch, of outputs with another number of items in
            each batch, by name.
        limits: the largest sizes of inputs with variable dimensions or BYTES.
        spreads: outputs that are joined to another one in a new last axis, by that one's name: the
            variances beside the means.
        stamps: of its files; one that has changed since is not loaded.
    """

    member: str
    backend: Literal["onnx", "torch", "fake", "python"]
    path: str = ""
    declared: tuple[TensorSpec, ...] = ()
    outputs: tuple[str, ...] = ()
    padded: dict[str, tuple[int, ...]] = {}
    fake: FakeOptions | None = None
    limits: tuple[InputLimit, ...] = ()
    python: PythonSource | None = None
    spreads: dict[str, str] = {}
    stamps: tuple[FileStamp, ...] = ()

    @property
    def origin(self) -> str:
        """What people know it by: its file, or its Python object; empty for a fake."""
        return self.path or (self.python.target if self.python else "")

    @property
    def is_users_code(self) -> bool:
        """Whether a Python class of the user makes it, whose imports nobody can follow."""
        return self.python is not None and not self.python.extra


class ModelSignature(msgspec.Struct, frozen=True):
    """The inputs and outputs of a model, as inspection finds them.

    Attributes:
        inputs: in the model's own order and by its own names.
        outputs: those that are used, in the order of `ModelSource.outputs`; at least one.
        parameter_bytes: the size of the weights (the model file's size, 0 for a fake).
        labels: those that the model has itself, by output.
        kinds: what it says its outputs are, by output.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameter_bytes: int
    labels: dict[str, tuple[str, ...]] = {}
    kinds: dict[str, OutputKind] = {}

    @property
    def output(self) -> TensorSpec:
        """The first of the outputs."""
        return self.outputs[0]


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


class BlockSpec(msgspec.Struct, frozen=True):
    """Prediction areas of equal shape and type, adjacent in memory: [areas, slots, *shape].

    There is an area per output of each member. The first outputs have the members' own numbers,
    the further ones follow.
    """

    areas: tuple[int, ...]
    datatype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one area's prediction of one row."""
        return TensorSpec("", self.datatype, self.shape).row_bytes


class PredictionSpec(msgspec.Struct, frozen=True):
    """One of the outputs of an ensemble's members, alike in all that have it.

    Attributes:
        tensor: a member's prediction of one row, in the ensemble's classes, by the clients' name.
        areas: where each of the ensemble's members predicts it, -1 for one that has no such output.
        columns: where the classes of its members differ, per member: for each of the ensemble's
            classes its column in that member's prediction, or -1; empty if all are the same.
        class_axis: the axis of the classes, counted from the end.
    """

    tensor: TensorSpec
    areas: tuple[int, ...]
    columns: tuple[tuple[int, ...], ...] = ()
    class_axis: int = -1


class RuleSpec(msgspec.Struct, frozen=True):
    """A rule of an ensemble, and what it combines.

    Attributes:
        rule: its name, or ``module:function``.
        inputs: what it takes, as indices into the ensemble's predictions; mostly one.
        outputs: what it yields for one row.
        weights: one per member for a weighted rule, else empty.
        options: the built-in rule's further arguments, by name.
        meta: for `stack`, its meta-model.
        directory: for a custom rule, where it is imported from after the installed packages.
    """

    rule: str
    inputs: tuple[int, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[float, ...] = ()
    options: dict[str, float | str] = {}
    meta: ModelSource | None = None
    directory: str = ""


class EnsembleSpec(msgspec.Struct, frozen=True, dict=True):
    """A combination of members of an arena (also of one member that is addressed by itself).

    Attributes:
        name: of the model that clients address.
        members: indices into the arena's members, in the ensemble's order.
        quorum: the fewest members an answer may rest on.
        predictions: what its members predict, combined or not.
        rules: at least one; the first output of the first one is the main output, which alone is
            computed unless more is requested.
        scores: names of the main output's uncertainty scores (`workers.combiner.scores`).
        stages: of a cascade, the masks of the members that predict up to each stage; else empty.
        thresholds: after each stage but the last, the confidence (the largest probability) with
            which a row leaves the cascade.
    """

    name: str
    members: tuple[int, ...]
    quorum: int
    predictions: tuple[PredictionSpec, ...]
    rules: tuple[RuleSpec, ...]
    scores: tuple[str, ...] = ()
    stages: tuple[int, ...] = ()
    thresholds: tuple[float, ...] = ()

    @cached_property
    def mask(self) -> int:
        """The members as a bit mask."""
        return sum(1 << member for member in self.members)

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The combined answer of one row: the outputs of all rules, the main one first."""
        return tuple(output for rule in self.rules for output in rule.outputs)

    @cached_property
    def output(self) -> TensorSpec:
        """The main output."""
        return self.outputs[0]

    @cached_property
    def main(self) -> PredictionSpec:
        """What the main output is combined from."""
        return self.predictions[self.rules[0].inputs[0]]

    @property
    def predicted(self) -> TensorSpec:
        """A member's prediction of one row that the main output is combined from."""
        return self.main.tensor

    @property
    def rule(self) -> str:
        """The rule of the main output."""
        return self.rules[0].rule

    @property
    def weights(self) -> tuple[float, ...]:
        """The weights of the main output's rule."""
        return self.rules[0].weights

    @cached_property
    def score(self) -> TensorSpec:
        """An uncertainty score of a row: a number, or a map of one per point that has classes."""
        if self.scores in ((), VALUE_SCORES):
            return TensorSpec("", "FP32", ())
        points = self.predicted.without(self.main.class_axis)
        return msgspec.structs.replace(points, datatype="FP32")

    @cached_property
    def areas(self) -> dict[int, tuple[int, PredictionSpec]]:
        """By prediction area the member of the ensemble, by position, and what it predicts."""
        return {
            area: (position, prediction)
            for prediction in self.predictions
            for position, area in enumerate(prediction.areas)
            if area >= 0
        }

    @property
    def needs_all(self) -> bool:
        """Whether one of its rules can combine only all of its members."""
        return any(rule.meta is not None for rule in self.rules)


class ArenaSpec(msgspec.Struct, frozen=True, dict=True):
    """The layout of one input signature's part of the shared memory (see `workers.runtime.arena`).

    Attributes:
        offset: where it begins in the shared memory, in bytes.
        segment_rows: rows of one segment; a range never crosses a segment.
        views: the stored inputs of one row.
        masks: indices of those that are ones where a request does not have them.
        members: names; a member's index is its bit in every mask.
    """

    offset: int
    segments: int
    segment_rows: int
    views: tuple[TensorSpec, ...]
    members: tuple[str, ...]
    blocks: tuple[BlockSpec, ...]
    ensembles: tuple[EnsembleSpec, ...]
    masks: tuple[int, ...] = ()

    @property
    def capacity(self) -> int:
        """Slots in the arena, in rows."""
        return self.segments * self.segment_rows

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """The names of the sizes that each row has for itself, in the order of `Arena.dims`."""
        return symbols_of(self.views)


def variable_symbols(name: str, shape: Sequence[int | str]) -> tuple[str, ...]:
    """Return `TensorSpec.symbols` of an input: for -1, a name of its own; for a name, that one."""
    symbols = tuple(
        size if isinstance(size, str) else f"{name}.{axis}" if size < 0 else ""
        for axis, size in enumerate(shape, start=1)
    )
    return symbols if any(symbols) else ()


def symbols_of(tensors: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Return the different symbols of tensors, in the order of their first appearance."""
    named = (symbol for tensor in tensors for symbol in tensor.symbols if symbol)
    return tuple(dict.fromkeys(named))


class Scaling(msgspec.Struct, frozen=True):
    """The scaling of stored pixels in a worker: ``(x - mean) / std`` as FP32, per channel."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layout: Literal["nchw", "nhwc"]


class Binding(msgspec.Struct, frozen=True):
    """The source of one input of a model: a view of the arena, scaled if it holds pixels.

    Rows of a view with variable dimensions are padded with the value `pad`; if there is none, only
    rows of equal sizes are predicted together.
    """

    view: int
    scaling: Scaling | None = None
    pad: int | float | None = None


class OutputSpec(msgspec.Struct, frozen=True):
    """How an output of a model becomes a prediction, and where that goes.

    Attributes:
        area: the prediction area of the arena that it is written to.
        temperature: divides logits; sharpens (below 1) or softens (above 1) probabilities.
        classes: for an output that is the index of a class, how many classes there are.
        class_axis: the axis of the classes in a prediction with the batch, counted from the end.
        symbols: of the prediction's variable dimensions, as in `TensorSpec`.
        is_padded: whether the model gives fewer or more items than the area has: they are padded
            with zeros, or cut.
        spread: for a normal distribution, what its second number is.
    """

    area: int
    kind: OutputKind
    temperature: float = 1.0
    classes: int = 0
    class_axis: int = -1
    is_padded: bool = False
    spread: Spread = "variance"
    symbols: tuple[str, ...] = ()


class Variant(msgspec.Struct, frozen=True):
    """One of the variants of a row in test-time augmentation; by default the row as it is.

    Attributes:
        shift: pixels by which what it shows is moved, down and to the right.
        flip: whether it is mirrored, left to right.
        function: of the user, ``package.module:NAME`` or ``FILE.py:NAME`` with an absolute path,
            from rows to rows of the same shape; empty for none.
    """

    shift: tuple[int, int] = (0, 0)
    flip: bool = False
    function: str = ""


class AugmentationSpec(msgspec.Struct, frozen=True):
    """The test-time augmentation of a member (`workers.worker.augmentation`).

    Attributes:
        input: which of the model's inputs varies; the others are repeated.
        margin: pixels that are stored around an image, in which it can be moved.
        rule: of `workers.rules`, combines the predictions of a row's variants.
        directory: where functions are imported from after the installed packages.
        variance_area: the prediction area for the variance of the main output.
    """

    variants: tuple[Variant, ...]
    input: int = 0
    margin: int = 0
    rule: str = "mean"
    directory: str = ""
    variance_area: int = -1


class InstanceSpec(msgspec.Struct, frozen=True):
    """A non-zero cell of the allocation matrix: a member loaded on a device with its batch size.

    Attributes:
        bindings: the sources of the model's inputs, in the order of `signature`; a stored type
            that differs from the model's is converted.
        outputs: what becomes of the model's outputs, in the order of `signature`.
        augmentation: None if it predicts each row as it is.
        buckets: for a model with one variable dimension, the sizes that rows are padded to,
            ascending; to the longest of their batch if empty.
    """

    arena: int
    member: int
    batch: int
    source: ModelSource
    signature: ModelSignature
    bindings: tuple[Binding, ...]
    outputs: tuple[OutputSpec, ...]
    augmentation: AugmentationSpec | None = None
    buckets: tuple[int, ...] = ()


class QueuesSpec(msgspec.Struct, frozen=True):
    """The queues between processes in the shared memory (`workers.runtime.queues`).

    Attributes:
        offset: where it begins in the shared memory, in bytes.
        processes: those that sleep and have a bell.
        devices: those whose workers have rings.
        bells: the inherited eventfd of each process; empty if ZeroMQ is the bell.
    """

    offset: int = 0
    ring_bytes: int = 0
    processes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    bells: tuple[int, ...] = ()


class MemorySpec(msgspec.Struct, frozen=True):
    """The shared memory as an inherited file descriptor, and its contents."""

    fd: int
    nbytes: int
    processes: tuple[str, ...]
    arenas: tuple[ArenaSpec, ...]
    queues: QueuesSpec = QueuesSpec()


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
    instances: tuple[InstanceSpec, ...]
    memory: MemorySpec
    sockets: str
    tracing: TracingSpec | None = None


class PausedRule(msgspec.Struct, frozen=True):
    """A custom rule that has crashed combiners recently (see `workers.combiner.rule_guard`).

    `code` stands for it on the board; it is not run until `until_ns`, monotonic.
    """

    code: int
    crashes: int
    until_ns: int


class CombinerSpec(msgspec.Struct, frozen=True):
    """All that a combiner starts with; `sockets` is the directory of its sockets."""

    memory: MemorySpec
    sockets: str
    paused: tuple[PausedRule, ...] = ()
