"""Specs of models: where they are, what they take and give, and how a worker runs them.

Used in every process; pure. An `InstanceSpec` is all that a worker is told of a member.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from workers.runtime.spec.tensors import TensorSpec

__all__ = [
    "AugmentationSpec",
    "Binding",
    "FakeOptions",
    "FileStamp",
    "InputLimit",
    "InstanceSpec",
    "ModelSignature",
    "ModelSource",
    "OutputKind",
    "OutputSpec",
    "Preparation",
    "PythonSource",
    "Scaling",
    "Spread",
    "Variant",
    "Work",
]

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
        links: the directory that has links to these files, at their absolute paths below it; empty
            for none.
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
    links: str = ""

    @property
    def origin(self) -> str:
        """What people know it by: its file, or its Python object; empty for a fake."""
        return self.path or (self.python.target if self.python else "")

    @property
    def is_users_code(self) -> bool:
        """Whether a Python class of the user makes it, whose imports nobody can follow."""
        return self.python is not None and not self.python.extra


class Work(msgspec.Struct, frozen=True):
    """What a model does to predict a row, as counted in a run on the CPU.

    Attributes:
        flops: the arithmetic of its convolutions and matrix products.
        moved_bytes: what its kernels read and write, without the weights.
        peak_bytes: the most that one of them reads and writes.
        kernels: how many it runs for a batch.
    """

    flops: float
    moved_bytes: float
    peak_bytes: float
    kernels: int


class ModelSignature(msgspec.Struct, frozen=True):
    """The inputs and outputs of a model, as inspection finds them.

    Attributes:
        inputs: in the model's own order and by its own names.
        outputs: those that are used, in the order of `ModelSource.outputs`; at least one.
        parameter_bytes: the size of the weights (the model file's size, 0 for a fake).
        labels: those that the model has itself, by output.
        kinds: what it says its outputs are, by output.
        work: what it does for a row; None if nobody can tell, or that depends on variable sizes.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameter_bytes: int
    labels: dict[str, tuple[str, ...]] = {}
    kinds: dict[str, OutputKind] = {}
    work: Work | None = None

    @property
    def output(self) -> TensorSpec:
        """The first of the outputs."""
        return self.outputs[0]


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
        stamps: of the functions' files and the modules beside them.
    """

    variants: tuple[Variant, ...]
    input: int = 0
    margin: int = 0
    rule: str = "mean"
    directory: str = ""
    variance_area: int = -1
    stamps: tuple[FileStamp, ...] = ()


class InstanceSpec(msgspec.Struct, frozen=True):
    """A non-zero cell of the allocation matrix: a member loaded on a device with its batch size.

    Attributes:
        bindings: the sources of the model's inputs, in the order of `signature`; a stored type
            that differs from the model's is converted.
        outputs: what becomes of the model's outputs, in the order of `signature`.
        augmentation: None if it predicts each row as it is.
        buckets: for a model with one variable dimension, the sizes that rows are padded to,
            ascending; to the longest of their batch if empty.
        id: its number in messages, which no other instance of the server ever has.
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
    id: int = 0
