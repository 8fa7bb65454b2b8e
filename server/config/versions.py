"""The versions of a member: its `model` as a mapping or a directory of several, and which to serve.

Runs in the process that reads the configuration file; the section flows in as a mapping and out as
a frozen model, which `server.config.expansion` replaces by one member per version.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from server.config.base import Distinct, Name, RelativePath, Section, Version, versions_as_text
from server.config.fake import FakeConfig
from server.config.files import FilePath
from server.config.models import ModelReference
from server.config.variants import VariantConfig

__all__ = ["Model", "Policy", "VersionConfig", "VersionReference", "VersionsConfig"]


class LatestConfig(Section):
    """Serve the newest versions."""

    latest: int = Field(ge=1)
    """How many of them."""


class SpecificConfig(Section):
    """Serve some versions."""

    specific: Distinct[Version]
    """Which ones."""


class VersionConfig(Section):
    """A version that differs from the others in more than its model."""

    model: ModelReference
    """As a member's `model`."""
    temperature: float | None = Field(default=None, ge=1e-6, le=1e6)
    """As a member's `temperature`, in place of it."""
    labels: FilePath | None = None
    """As a member's `labels`, in place of it."""
    fake: FakeConfig | None = None
    """As a member's `fake`, in place of it."""
    variants: dict[Name, VariantConfig] | None = None
    """Copies of this version's model at lower precision, as a member's `variants`."""


def _version_form(value: Any) -> str:
    is_section = isinstance(value, VersionConfig) or (
        isinstance(value, Mapping) and "model" in value
    )
    return "<section>" if is_section else "<model>"


def _policy_form(value: Any) -> str | None:
    if value == "all":
        return "<all>"
    for key, section in (("latest", LatestConfig), ("specific", SpecificConfig)):
        if isinstance(value, section) or (isinstance(value, Mapping) and key in value):
            return f"<{key}>"
    return None


def _versions_form(value: Any) -> str | None:
    if isinstance(value, str | Path):
        return "<directory>"
    return "<mapping>" if isinstance(value, Mapping) else None


VersionReference = Annotated[
    Annotated[ModelReference, Tag("<model>")] | Annotated[VersionConfig, Tag("<section>")],
    Discriminator(_version_form),
]

Policy = Annotated[
    Annotated[Literal["all"], Tag("<all>")]
    | Annotated[LatestConfig, Tag("<latest>")]
    | Annotated[SpecificConfig, Tag("<specific>")],
    Discriminator(
        _policy_form,
        custom_error_type="policy",
        custom_error_message="should be all, {latest: N} or {specific: [VERSION, ...]}",
    ),
]


class VersionsConfig(Section):
    """Several versions of a member's model."""

    versions: Annotated[
        Annotated[dict[Version, VersionReference], Field(min_length=1), Tag("<mapping>")]
        | Annotated[RelativePath, Tag("<directory>")],
        Discriminator(
            _versions_form,
            custom_error_type="versions",
            custom_error_message="should be a mapping of versions, or the path of a directory",
        ),
    ]
    """The models by version, a whole number from 1, where each is what `model` would be without
    versions, or a mapping with `model`; or a directory with a folder per version, such as
    `DIRECTORY/3/model.onnx`, by relative path."""
    policy: Policy | None = None
    """Which versions are served: `all`, `{latest: N}` or `{specific: [VERSION, ...]}`; if absent,
    all of a mapping, the latest of a directory."""
    without: tuple[Version, ...] = ()
    """Versions that are not served, whatever the policy says, as if they were not there."""
    file: str | None = Field(default=None, min_length=1, pattern=r"^[^/]+$")
    """For a directory: the name of the model in each version's folder; if absent, `model` with any
    suffix that says what opens it."""

    @field_validator("versions", mode="before")
    @classmethod
    def _versions_as_text(cls, versions: Any) -> Any:
        return versions_as_text(versions)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not isinstance(self.versions, Path) and self.file is not None:
            raise ValueError("file is for a directory of versions, remove it")
        return self

    def choose(self, there: Mapping[str, Any]) -> list[str]:
        """Return which of the versions that are there are served, the newest last.

        Raises:
            ValueError: if the policy names one that is not there.
        """
        ordered = sorted((one for one in there if one not in self.without), key=int)
        if not ordered:
            raise ValueError("without: leaves no version")
        policy = self.policy
        if policy is None:
            policy = LatestConfig(latest=1) if isinstance(self.versions, Path) else "all"
        if isinstance(policy, LatestConfig):
            return ordered[-policy.latest :]
        if isinstance(policy, SpecificConfig):
            if missing := [one for one in policy.specific if one not in there]:
                raise ValueError(
                    f"policy.specific: there is no version {missing[0]}, the versions are "
                    f"{', '.join(ordered)}"
                )
            return [one for one in ordered if one in policy.specific]
        return ordered


def _model_form(value: Any) -> str:
    has_versions = isinstance(value, VersionsConfig) or (
        isinstance(value, Mapping) and not {"versions", "policy"}.isdisjoint(value)
    )
    return "<versions>" if has_versions else "<model>"


#: A member's `model`.
Model = Annotated[
    Annotated[ModelReference, Tag("<model>")] | Annotated[VersionsConfig, Tag("<versions>")],
    Discriminator(_model_form),
]
