"""The members of a configuration: their models are made, found and inspected.

Runs in the supervisor before anything is started. The configuration flows in, sources, signatures
and labels flow out; no runtime is imported for it.
"""

from __future__ import annotations

from pathlib import Path

from server.config import Config, MemberConfig, RecipeConfig, backend_for
from server.errors import ConfigError, StartError
from server.members.classes import read_labels
from server.members.member import KnownMember
from workers.backends.inspection import InspectionError, inspect_models
from workers.recipes import RECIPES, RecipeError, RecipeResult, ensure_with_progress
from workers.runtime.spec import ModelSource

__all__ = ["know_members", "model_sources"]


def know_members(config: Config) -> list[KnownMember]:
    """Return the configuration's members with all that is to be known of their models.

    What recipes must make is made, and every model is inspected.

    Raises:
        ConfigError: if a model or its labels can't be used.
        StartError: if a recipe fails.
    """
    made = _make_recipes(config)
    sources = [_source(name, member, made) for name, member in config.members.items()]
    try:
        signatures = inspect_models(sources)
    except InspectionError as error:
        raise ConfigError(error.messages) from None
    return [
        KnownMember(name, member, source, signature, _labels(name, member, made))
        for (name, member), source, signature in zip(
            config.members.items(), sources, signatures, strict=True
        )
    ]


def model_sources(config: Config) -> list[ModelSource]:
    """Return where the members' models are, in the configuration's order; make what is missing.

    Raises:
        ConfigError: if there is no such recipe.
        StartError: if a recipe fails.
    """
    made = _make_recipes(config)
    return [_source(name, member, made) for name, member in config.members.items()]


def _make_recipes(config: Config) -> dict[str, RecipeResult]:
    wanted: dict[str, str] = {}
    for name, member in config.members.items():
        if isinstance(member.model, RecipeConfig):
            wanted.setdefault(member.model.recipe, name)
    if unknown := [recipe for recipe in wanted if recipe not in RECIPES]:
        raise ConfigError(
            f"members.{wanted[recipe]}.model: unknown recipe {recipe!r}, "
            f"use one of {', '.join(RECIPES)}"
            for recipe in unknown
        )
    try:
        return ensure_with_progress(list(wanted))
    except RecipeError as error:
        raise StartError(str(error)) from None


def _source(name: str, member: MemberConfig, made: dict[str, RecipeResult]) -> ModelSource:
    if isinstance(member.model, RecipeConfig):
        path: Path | None = made[member.model.recipe].path
    else:
        path = member.model if isinstance(member.model, Path) else None
    backend = member.resolved_backend or (backend_for(path) if path else None)
    assert backend is not None, "the configuration's check leaves no other"
    declared = [tensor.declared(own) for own, tensor in member.inputs.items()]
    return ModelSource(
        member=name,
        backend=backend,
        path=str(path or ""),
        declared=tuple(tensor for tensor in declared if tensor is not None),
        output_name=member.output_name or "",
        fake=member.fake.options() if member.fake else None,
    )


def _labels(name: str, member: MemberConfig, made: dict[str, RecipeResult]) -> tuple[str, ...]:
    path = member.labels
    if path is None and isinstance(member.model, RecipeConfig):
        path = made[member.model.recipe].labels_path
    return () if path is None else read_labels(f"members.{name}.labels", path)
