"""A member's `model`: a file, a fake, a recipe, a Python class, or a model of another library.

Runs in the process that reads the configuration file; `server.members.sources` makes of the parsed
reference what the workers load. Mappings are told apart by their first
key: `recipe`, `python`, or the library that opens the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    field_validator,
)

from server.config.base import Section
from server.config.files import FilePath, MlflowDirectory, TransformersDirectory, names_file
from server.errors import did_you_mean

__all__ = [
    "BACKENDS",
    "DIRECTORY_KEYS",
    "KEYS_BY_SUFFIX",
    "MODEL_SECTIONS",
    "CatboostConfig",
    "KerasConfig",
    "LibraryConfig",
    "LightgbmConfig",
    "MlflowConfig",
    "ModelReference",
    "PythonConfig",
    "RecipeConfig",
    "SklearnConfig",
    "TransformersConfig",
    "XgboostConfig",
    "backend_for",
    "unknown_suffix",
]

TransformersTask = Literal[
    "sequence-classification", "token-classification", "feature-extraction", "image-classification"
]

#: What loads a model file, by its suffix.
BACKENDS: dict[str, Literal["onnx", "torch"]] = {
    ".onnx": "onnx",
    ".pt2": "torch",
    ".pt": "torch",
    ".ts": "torch",
}

#: The key of a library that opens a file, by its suffix.
KEYS_BY_SUFFIX = {
    ".skops": "sklearn",
    ".joblib": "sklearn",
    ".pickle": "sklearn",
    ".pkl": "sklearn",
    ".json": "xgboost",
    ".ubj": "xgboost",
    ".cbm": "catboost",
    ".keras": "keras",
}


def backend_for(path: Path) -> Literal["onnx", "torch"] | None:
    """Return the backend that loads files with this suffix, None if there is none."""
    return BACKENDS.get(path.suffix.lower())


def unknown_suffix(path: Path) -> str:
    """Return what to do with a file whose suffix belongs to no backend."""
    if key := KEYS_BY_SUFFIX.get(path.suffix.lower()):
        return f"{path.name!r} is opened by its library, use {{{key}: {path.name}}}"
    return (
        f"cannot tell the format of {path.name!r} by its suffix, use one of {', '.join(BACKENDS)} "
        f"or set backend (`ensembled import {path.name}` tells what it is)"
    )


class RecipeConfig(Section):
    """A model that the server builds itself, once, instead of a file."""

    recipe: str = Field(min_length=1)
    """Function that makes it: `FILE.py:NAME`, relative to the configuration, or
    `package.module:NAME`."""


class PythonConfig(Section):
    """A Python class, or a function that makes a model, that the worker imports and calls."""

    python: str
    """`FILE.py:NAME`, relative to the configuration, or `package.module:NAME`: a torch module, or a
    class with `predict`."""
    args: dict[str, JsonValue] = {}
    """Keyword arguments for it."""
    weights: FilePath | None = None
    """Weights, by relative path: a torch module's state dict (`.safetensors`, or a checkpoint that
    holds tensors only); any other class gets the path as its argument `weights`."""
    compile: bool = False
    """For a torch module: whether `torch.compile` compiles it."""

    @field_validator("python")
    @classmethod
    def _check_target(cls, target: str) -> str:
        where, colon, name = target.rpartition(":")
        if not (where and colon and name.isidentifier()):
            raise ValueError(
                f"should be FILE.py:NAME, relative to the configuration, or package.module:NAME, "
                f"not {target!r}"
            )
        return target


class LibraryConfig(Section):
    """A model that another library opens in the worker.

    The first field of a subclass is its key, the path of the model; the adapter gets it as its
    argument `path`, and the other fields that are not None under their own names.
    """

    #: The adapter, a class as `workers.backends.python` describes it.
    adapter: ClassVar[str]
    #: The distributions of the library.
    packages: ClassVar[tuple[str, ...]]
    #: Whether the key names a directory.
    is_directory: ClassVar[bool] = False

    @classmethod
    def key(cls) -> str:
        """Return the first field, which is also the extra that installs the library."""
        return next(iter(cls.model_fields))


class TransformersConfig(LibraryConfig):
    """A model of Hugging Face transformers, in a directory as `save_pretrained` writes it."""

    adapter = "workers.adapters.transformers:TransformersModel"
    packages = ("transformers", "tokenizers", "torch")
    is_directory = True

    transformers: TransformersDirectory
    """Directory, by relative path or at `hf://ORG/REPO[@REVISION]` or `s3://BUCKET/PREFIX`, with
    `config.json`, weights in safetensors, and `tokenizer.json` or `preprocessor_config.json`."""
    task: TransformersTask | None = None
    """What it is for; if absent, the architecture in `config.json` decides."""
    takes: Literal["text", "tokens"] = "text"
    """What clients of a text model send: strings, in an input `text`, or `input_ids` and
    `attention_mask`."""
    max_length: int | None = Field(default=None, ge=1)
    """Tokens to which texts are cut; if absent, as many as the model can take."""
    pooling: Literal["mean", "cls", "pooler", "none"] = "mean"
    """For `feature-extraction`: how the vectors of the tokens become one for the text: their mean,
    the first one, the model's own pooler, or not at all."""
    buckets: tuple[int, ...] | None = None
    """Numbers of tokens to which batches of texts are padded, ascending; if absent, to the longest
    text of the batch."""
    compile: bool = False
    """Whether `torch.compile` compiles it."""

    @field_validator("buckets")
    @classmethod
    def _check_buckets(cls, buckets: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if buckets and (sorted(set(buckets)) != [*buckets] or buckets[0] < 1):
            raise ValueError("should be ascending numbers of tokens")
        return buckets


class SklearnConfig(LibraryConfig):
    """A model of scikit-learn, or of another library with its interface."""

    adapter = "workers.adapters.sklearn:SklearnModel"
    packages = ("scikit-learn", "skops", "pandas", "xgboost", "xgboost-cpu", "lightgbm")

    sklearn: FilePath
    """File that `skops.io.dump` wrote, by relative path."""
    trust_pickle: bool = False
    """Whether to open a pickle (`.pkl`, `.joblib`), or a type that skops does not know: either can
    run any code when it is loaded, in the worker and in the process that inspects it."""


class XgboostConfig(LibraryConfig):
    """A model of XGBoost."""

    adapter = "workers.adapters.xgboost:XgboostModel"
    packages = ("xgboost", "xgboost-cpu", "pandas")

    xgboost: FilePath
    """File that `save_model` wrote (`.json`, `.ubj`), by relative path."""


class LightgbmConfig(LibraryConfig):
    """A model of LightGBM."""

    adapter = "workers.adapters.lightgbm:LightgbmModel"
    packages = ("lightgbm", "pandas")

    lightgbm: FilePath
    """Text file that `Booster.save_model` wrote, by relative path."""


class CatboostConfig(LibraryConfig):
    """A model of CatBoost."""

    adapter = "workers.adapters.catboost:CatboostModel"
    packages = ("catboost", "pandas")

    catboost: FilePath
    """File that `save_model` wrote (`.cbm`), by relative path."""


class KerasConfig(LibraryConfig):
    """A model of Keras, which the worker runs with torch."""

    adapter = "workers.adapters.keras:KerasModel"
    packages = ("keras", "torch")

    keras: FilePath
    """File that `model.save` wrote (`.keras`), by relative path; without layers that are code."""


class MlflowConfig(Section):
    """A model in an MLflow directory, opened as the flavour that it has."""

    is_directory: ClassVar[bool] = True

    mlflow: MlflowDirectory
    """Directory with `MLmodel`, by relative path or at `s3://BUCKET/PREFIX`."""
    trust_pickle: bool = False
    """As for `sklearn`."""


_SECTIONS: tuple[type[Section], ...] = (
    RecipeConfig,
    PythonConfig,
    TransformersConfig,
    SklearnConfig,
    XgboostConfig,
    LightgbmConfig,
    CatboostConfig,
    KerasConfig,
    MlflowConfig,
)
#: The sections that are told apart by their first key.
MODEL_SECTIONS = {next(iter(section.model_fields)): section for section in _SECTIONS}

#: The keys that name a directory.
DIRECTORY_KEYS = frozenset(
    key
    for key, section in MODEL_SECTIONS.items()
    if issubclass(section, LibraryConfig | MlflowConfig) and section.is_directory
)


def _check_key(value: Any) -> Any:
    is_section = isinstance(value, Mapping) and not names_file(value)
    if is_section and MODEL_SECTIONS.keys().isdisjoint(value):
        given = str(next(iter(value), ""))
        keys = ", ".join(MODEL_SECTIONS)
        hint = did_you_mean(given, MODEL_SECTIONS) or f", the keys here are {keys}"
        raise ValueError(f"{given}: unknown key{hint}" if value else f"should have one of {keys}")
    return value


def _kind(value: Any) -> str | None:
    """The tag of a reference: `<fake>`, `<file>` or its key."""
    if names_file(value):
        return "<fake>" if value == "fake" else "<file>"
    if isinstance(value, Section):
        return f"<{next(iter(type(value).model_fields))}>"
    if isinstance(value, Mapping):
        return next((f"<{key}>" for key in MODEL_SECTIONS if key in value), None)
    return None


ModelReference = Annotated[
    Annotated[Literal["fake"], Tag("<fake>")]
    | Annotated[FilePath, Tag("<file>")]
    | Annotated[RecipeConfig, Tag("<recipe>")]
    | Annotated[PythonConfig, Tag("<python>")]
    | Annotated[TransformersConfig, Tag("<transformers>")]
    | Annotated[SklearnConfig, Tag("<sklearn>")]
    | Annotated[XgboostConfig, Tag("<xgboost>")]
    | Annotated[LightgbmConfig, Tag("<lightgbm>")]
    | Annotated[CatboostConfig, Tag("<catboost>")]
    | Annotated[KerasConfig, Tag("<keras>")]
    | Annotated[MlflowConfig, Tag("<mlflow>")],
    Discriminator(
        _kind,
        custom_error_type="model_reference",
        custom_error_message="should be the path of a model file, fake, or a mapping with one of "
        + ", ".join(MODEL_SECTIONS),
    ),
    BeforeValidator(_check_key),
]
