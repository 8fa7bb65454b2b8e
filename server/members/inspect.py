"""Builds or finds the models of a configuration's members, and inspects them.

Runs in the supervisor before anything is started. The configuration flows in, inspected members
flow out; models are loaded in child processes, so no inference runtime is imported here.
"""

from __future__ import annotations

from pathlib import Path

from server.config import Config, MemberConfig, RecipeConfig, backend_for
from server.errors import ConfigError, StartError
from server.members.agreement import read_labels
from server.members.member import InspectedMember
from workers.backends.inspection import InspectionError, inspect_models
from workers.builder import BuiltModel, RecipeError, build_models_with_progress, find_recipe
from workers.runtime.spec import ModelSource

__all__ = ["inspect_members", "model_sources"]


def inspect_members(config: Config) -> list[InspectedMember]:
    """Build models from recipes where needed, and inspect the models of all members.

    Raises:
        ConfigError: if a model or its labels can't be used.
        StartError: if a recipe fails.
    """
    built = _build_models(config)
    sources = [_source(name, member, built) for name, member in config.members.items()]
    try:
        signatures = inspect_models(sources)
    except InspectionError as error:
        raise ConfigError(error.messages) from None
    return [
        InspectedMember(name, member, source, signature, _labels(name, member, built))
        for (name, member), source, signature in zip(
            config.members.items(), sources, signatures, strict=True
        )
    ]


def model_sources(config: Config) -> list[ModelSource]:
    """Return where the members' models are, in the configuration's order; build missing ones.

    Raises:
        ConfigError: if there is no such recipe.
        StartError: if a recipe fails.
    """
    built = _build_models(config)
    return [_source(name, member, built) for name, member in config.members.items()]


def _build_models(config: Config) -> dict[str, BuiltModel]:
    """Return the models of the members whose model is a recipe, by member."""
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


def _source(name: str, member: MemberConfig, built: dict[str, BuiltModel]) -> ModelSource:
    if isinstance(member.model, RecipeConfig):
        path: Path | None = built[name].path
    else:
        path = member.model if isinstance(member.model, Path) else None
    backend = member.resolved_backend or (backend_for(path) if path else None)
    assert backend is not None, "the configuration was validated"
    declared = [tensor.declared(own) for own, tensor in member.inputs.items()]
    return ModelSource(
        member=name,
        backend=backend,
        path=str(path or ""),
        declared=tuple(tensor for tensor in declared if tensor is not None),
        output_name=member.output_name or "",
        fake=member.fake.options() if member.fake else None,
    )


def _labels(name: str, member: MemberConfig, built: dict[str, BuiltModel]) -> tuple[str, ...]:
    path = member.labels
    if path is None and isinstance(member.model, RecipeConfig):
        path = built[name].labels_path
    return () if path is None else read_labels(f"members.{name}.labels", path)
