"""The `members` section: a model, what it takes, what its output means, and how it is run.

Runs in the process that reads the configuration file; the sections flow in as mappings and out as
frozen models, from which `server.members` makes the specs of the workers.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from server.config.augmentation import Augmentation, AugmentRule, CropsConfig, ShiftConfig
from server.config.base import Name, Section
from server.config.fake import FakeConfig
from server.config.files import FilePath
from server.config.inputs import (
    IMAGE_NAME,
    Dimension,
    ImageConfig,
    InputConfig,
    NamedInput,
)
from server.config.models import (
    LibraryConfig,
    PythonConfig,
    backend_for,
    unknown_suffix,
)
from server.config.outputs import OutputConfig
from server.config.rollout import RolloutConfig
from server.config.validation import Validation
from server.config.variants import VariantConfig
from server.config.versions import Model, VersionsConfig
from server.errors import did_you_mean
from workers.runtime.spec import COMBINED, OutputKind, Spread

__all__ = ["OUTPUT_KEYS", "MemberConfig"]

#: What a member with one output says of it, as each of `outputs` does.
OUTPUT_KEYS = (
    "temperature",
    "classes",
    "class_axis",
    "labels",
    "spread",
    "spread_output",
    "levels",
)


class MemberConfig(Section):
    """One trained network."""

    model: Model
    """A relative path (`.onnx`, `.pt2`, `.pt`, `.ts`), `{python: FILE.py:NAME}`,
    `{recipe: FILE.py:NAME}`, `fake`, or `{versions: ...}` of these: see
    [versions.md](versions.md)."""
    input: InputConfig | None = None
    """How the client's input becomes the model's; if absent, the client sends the tensor itself."""
    inputs: dict[str, NamedInput] = {}
    """By the model's own name of an input: the name that the client uses, or a mapping."""
    output: OutputKind = "values"
    """What the output is: `logits` become probabilities before they are combined; `class` is the
    index of a class, one whole number per row; `binary` is the probability of the second of two
    classes, one number per row, `binary_logits` its logit: both become two probabilities. `normal`
    is a mean and a variance along the last axis, `quantiles` are those of `levels`: see
    [regression.md](regression.md)."""
    temperature: float = Field(default=1.0, ge=1e-6, le=1e6)
    """For logits `z` and probabilities `p`: the member predicts `softmax(z / temperature)`, or
    `p ** (1 / temperature)`, normalized."""
    classes: int | None = Field(default=None, ge=1)
    """For `output: class`: the number of classes; the number of labels if absent."""
    class_axis: int | None = None
    """For logits and probabilities of more than one dimension per row, such as maps: the axis of
    the classes, where 0 is the batch: 1 for `[n, C, H, W]`, -1 for the last."""
    spread: Spread = "variance"
    """For `output: normal`: what the second number is: the variance, the standard deviation (`std`)
    or the logarithm of the variance (`log_variance`)."""
    spread_output: str | None = Field(default=None, min_length=1)
    """For `output: normal` of a model that gives it in an output of its own: that output's name;
    `output_name` is then the one of the means, and has the same shape."""
    levels: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """For `output: quantiles`: which quantiles the last axis has, ascending, e.g.
    `[0.1, 0.5, 0.9]`."""
    output_name: str | None = Field(default=None, min_length=1)
    """Which of the model's outputs to use; required only if it has several. Clients see it as
    `output`."""
    outputs: dict[str, OutputConfig] = {}
    """Several outputs, computed in one run, by the model's own names, the main one first: instead
    of `output` and what belongs to it. The main one can be asked for as `output`, too."""
    labels: FilePath | None = None
    """File with one label per line, in the order of the output's elements; a relative path."""
    fake: FakeConfig | None = None
    """Behaviour of a fake member; required if and only if `model` is `fake`."""
    batch_size: int | None = Field(default=None, ge=1, le=1024)
    """Most rows per prediction; the server chooses if absent."""
    buckets: tuple[Dimension, ...] = ()
    """For a model with one variable dimension: the sizes that batches are padded to, ascending.
    They are also the length classes in which rows wait; a series that doubles if absent."""
    lengths: dict[Dimension, PositiveFloat] = {}
    """For a model with a variable dimension: which sizes of it clients will send, as their shares
    of the rows, e.g. `{32: 0.5, 128: 0.4, 512: 0.1}`; what placement expects its batches to take
    follows from them. If absent, a log-normal distribution around an eighth of the largest size (of
    texts, in bytes, a sixty-fourth)."""
    backend: Literal["onnx", "torch"] | None = None
    """What loads the model; if absent, the file's suffix decides."""
    augment: Annotated[tuple[Augmentation, ...], Field(min_length=1)] | None = None
    """Test-time augmentation: variants of a row that the member predicts as well, of its image or
    its only input: `identity`, `hflip`, `{crops: 5}`, `{shift: [DOWN, RIGHT]}`, or a function. See
    [augmentation.md](augmentation.md)."""
    augment_rule: AugmentRule = "mean"
    """How the predictions of a row's variants become the member's."""
    variants: dict[Name, VariantConfig] = {}
    """Copies of `model` at lower precision by name, such as `int8`, which `ensembled variants`
    makes: see [variants.md](variants.md)."""
    may_differ: float = Field(default=0.0, ge=0, le=1)
    """The largest `disagreement` of a variant that may answer in place of `model`: on each kind of
    device the fastest of those runs, if it is faster than `model`. With 0, none does."""
    rollout: RolloutConfig | None = None
    """One of the versions of `model` is tried on real requests; see [rollouts.md](rollouts.md)."""
    validation: Validation | None = Field(default=None, alias="validate")
    """Rows on which a change of what is served must keep the answers, or nothing is changed: a file
    (.npz), or a mapping with `data`. See [changes.md](changes.md)."""

    @property
    def margin(self) -> int:
        """Pixels that are stored around its image, for crops and shifts."""
        if self.image is None:
            return 0
        most = self.image.most_margin
        wanted = [
            max(map(abs, one.shift)) if isinstance(one, ShiftConfig) else most
            for one in self.augment or ()
            if isinstance(one, ShiftConfig | CropsConfig)
        ]
        return min(most, max(wanted, default=0))

    @property
    def image(self) -> ImageConfig | None:
        """How its image is prepared, None if it takes none."""
        own = [tensor.image for tensor in self.inputs.values() if tensor.image is not None]
        return self.input.image if self.input is not None else next(iter(own), None)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.model, VersionsConfig):
            if self.variants:
                raise ValueError("variants are copies of one model: give them with each version")
            return self  # each version is checked by itself, see `server.config.expansion`
        if self.rollout is not None:
            raise ValueError("rollout is for a member with `model: {versions: ...}`")
        self.check()
        return self

    def check(self) -> None:
        """Raise ValueError if its keys don't go together; its model has no versions."""
        if self.model == "fake":
            self._check_fake()
        elif self.fake is not None:
            raise ValueError("fake is only for `model: fake`, remove one of them")
        elif isinstance(self.model, PythonConfig | LibraryConfig):
            if self.backend is not None:
                raise ValueError("backend is for model files, remove it")
        elif isinstance(self.model, Path) and not (self.backend or backend_for(self.model)):
            raise ValueError(f"model: {unknown_suffix(self.model)}")
        for name, variant in self.variants.items():
            if backend_for(variant.model) is None:
                raise ValueError(f"variants.{name}.model: {unknown_suffix(variant.model)}")
        self._check_outputs()
        self._check_inputs()
        if list(self.buckets) != sorted(set(self.buckets)):
            raise ValueError(f"buckets should ascend, not {list(self.buckets)}")
        self._check_augment()

    @property
    def served_outputs(self) -> dict[str, OutputConfig]:
        """Its outputs by the model's own names, at least one; "" is the only one."""
        if self.outputs:
            return self.outputs
        given = {key: getattr(self, key) for key in OUTPUT_KEYS}
        if "output" in self.model_fields_set:
            given["as"] = self.output
        given["name"] = COMBINED
        return {self.output_name or "": OutputConfig.model_construct(None, **given)}

    def _check_outputs(self) -> None:
        if not self.outputs:
            self.served_outputs[self.output_name or ""].check()
            if self.spread_output is not None and self.output_name is None:
                raise ValueError("spread_output needs output_name, the output of the means")
            return
        for key in ("output", "output_name", *OUTPUT_KEYS):
            if key in self.model_fields_set:
                raise ValueError(f"{key} has no meaning beside outputs: give it there")
        names = [output.name or own for own, output in self.outputs.items()]
        for name, count in Counter(names).items():
            if count > 1:
                raise ValueError(f"outputs: two of the outputs are called {name!r}")
        if COMBINED in names[1:]:
            raise ValueError(
                f"outputs: only the first can be called {COMBINED!r}, which is how clients ask for "
                "the main output: list it first, or give it another name"
            )

    def _check_fake(self) -> None:
        if self.fake is None:
            raise ValueError("`model: fake` needs a `fake:` section with inputs and outputs")
        if self.backend is not None:
            raise ValueError("backend has no meaning for a fake member, remove it")
        for name in self.inputs:
            if name not in self.fake.inputs:
                hint = did_you_mean(name, self.fake.inputs)
                raise ValueError(f"inputs: the fake has no input {name!r}{hint}")

    def _check_augment(self) -> None:
        if self.augment is None:
            if "augment_rule" in self.model_fields_set:
                raise ValueError("augment_rule is for a member with augment")
            return
        if any(isinstance(one, CropsConfig) for one in self.augment):
            if self.image is None:
                raise ValueError("augment: crops are of an image, which this member does not take")
            if self.image.most_margin == 0:
                raise ValueError(
                    f"augment: crop {self.image.crop:g} of the image leaves nothing around it, "
                    "make it smaller, such as 0.875"
                )

    def _check_inputs(self) -> None:
        names = Counter(
            IMAGE_NAME if tensor.image else tensor.name or own
            for own, tensor in self.inputs.items()
        )
        for name, count in names.items():
            if count > 1:
                raise ValueError(f"inputs: two of the model's inputs are called {name!r}")
        if self.input is None:
            return
        if any(tensor.image for tensor in self.inputs.values()):
            raise ValueError("inputs: the image is given by `input`, too, remove one of them")
        if len(self.inputs) > 1 or any(
            t.name not in {None, IMAGE_NAME} for t in self.inputs.values()
        ):
            raise ValueError(
                "inputs: an image member has one input, called 'image' by the client; for a model "
                "with more inputs, put `image` below that of its image instead of `input`"
            )
