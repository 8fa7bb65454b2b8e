"""From a member's `model` in the configuration to the source that workers load.

Runs in the supervisor before anything is started. The configuration flows in, `ModelSource`s flow
out; recipes are run in child processes, and no user's code is imported here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec.structs import replace

from server.config import (
    Config,
    LibraryConfig,
    MlflowConfig,
    PythonConfig,
    RecipeConfig,
    VariantConfig,
    backend_for,
)
from server.errors import ConfigError, StartError
from server.members.mlflow import find_flavor
from workers.builder import BuiltModel, RecipeError, build_models_with_progress, find_recipe
from workers.runtime.python_files import python_file
from workers.runtime.spec import ModelSource, PythonSource

__all__ = ["build_models", "model_sources", "source_of", "variant_source"]


def model_sources(config: Config) -> list[ModelSource]:
    """Return where the members' models are, in the configuration's order; build missing ones.

    Raises:
        ConfigError: if there is no such recipe, or nothing to serve in an MLflow directory.
        StartError: if a recipe fails.
    """
    built = build_models(config)
    return [source_of(config, name, built) for name in config.members]


def build_models(config: Config) -> dict[str, BuiltModel]:
    """Return the models of the members whose model is a recipe, by member; build missing ones.

    Raises as `model_sources` does.
    """
    recipes, problems = {}, []
    for name, member in config.members.items():
        if isinstance(member.model, RecipeConfig):
            try:
                recipes[name] = find_recipe(member.model.recipe, config.directory)
            except RecipeError as error:
                problems.append(f"members.{name}.model: {error}")
    if problems:
        raise ConfigError(problems)
    try:
        built = build_models_with_progress(list(recipes.values()))
    except RecipeError as error:
        raise StartError(str(error)) from None
    return {name: built[recipe] for name, recipe in recipes.items()}


def source_of(config: Config, name: str, built: dict[str, BuiltModel]) -> ModelSource:
    """Return where a member's model is; `built` has those of recipes, by member."""
    member = config.members[name]
    declared = [tensor.declared(own) for own, tensor in member.inputs.items()]
    limits = [tensor.limit(own) for own, tensor in member.inputs.items()]
    source = ModelSource(
        member=name,
        backend="fake",
        declared=tuple(tensor for tensor in declared if tensor is not None),
        outputs=tuple(own for own in member.served_outputs if own),
        padded={own: one.max_shape for own, one in member.outputs.items() if one.max_shape},
        spreads={
            own: one.spread_output
            for own, one in member.served_outputs.items()
            if one.spread_output is not None
        },
        fake=member.fake.options() if member.fake else None,
        limits=tuple(limit for limit in limits if limit is not None),
    )
    match member.model:
        case PythonConfig() as python:
            own = _python_source(python, config.directory.absolute())
            return replace(source, backend="python", python=own)
        case LibraryConfig() as library:
            return _with_adapter(source, library)
        case MlflowConfig() as directory:
            flavor = find_flavor(f"members.{name}.model", directory)
            if isinstance(flavor.model, LibraryConfig):
                return _with_adapter(source, flavor.model, **flavor.args)
            path = flavor.model
        case RecipeConfig():
            path = built[name].path
        case Path() as path:
            pass
        case _:
            return source
    backend = member.backend or backend_for(path)
    assert backend is not None, "the configuration was validated"
    return replace(source, backend=backend, path=str(path))


def variant_source(member: ModelSource, config: VariantConfig) -> ModelSource:
    """Return where a variant of a member is."""
    backend = backend_for(config.model)
    assert backend is not None, "the configuration was validated"
    return replace(member, backend=backend, path=str(config.model), python=None, fake=None)


def _python_source(config: PythonConfig, directory: Path) -> PythonSource:
    """Return a user's Python object; a file's own imports are looked up beside it."""
    target = config.python
    where, _, name = target.rpartition(":")
    if where.endswith(".py"):
        file = python_file(where, directory)
        target, directory = f"{file}:{name}", file.parent
    return PythonSource(
        target=target,
        args=config.args,
        directory=str(directory),
        weights=str(config.weights or ""),
        compile=config.compile,
    )


def _with_adapter(source: ModelSource, config: LibraryConfig, **more: Any) -> ModelSource:
    """Return a source with the adapter of a library, whose arguments are the section's fields."""
    key = config.key()
    args = {
        "path" if name == key else name: str(value) if isinstance(value, Path) else value
        for name, value in config
        if value is not None
    }
    python = PythonSource(
        target=config.adapter, args=args | more, extra=key, packages=config.packages
    )
    return replace(source, backend="python", path=args["path"], python=python)
