"""The whole configuration, and the checks across its sections.

Runs in the process that reads the configuration file; the parsed YAML flows in, one frozen model
with absolute paths flows out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, PrivateAttr, Tag, field_validator, model_validator

from server.config.base import Name, RelativePath, Section
from server.config.devices import DeviceConfig, PlacementConfig, device_problems
from server.config.ensembles import EnsembleConfig
from server.config.members import MemberConfig
from server.config.server import ServerConfig
from server.errors import did_you_mean
from server.versions import public_name
from workers.fetcher.source import FileSource

__all__ = ["MAX_MEMBERS", "Config"]

#: The arena keeps one bit per member.
MAX_MEMBERS = 64


def _form(value: Any) -> str | None:
    """The tag of a value's form: `auto`, a list, or the path of a file."""
    if value == "auto":
        return "<auto>"
    if isinstance(value, list | tuple):
        return "<list>"
    return "<file>" if isinstance(value, str | Path) else None


class Config(Section):
    """A configuration file."""

    ensembles: dict[Name, EnsembleConfig] = {}
    """The ensembles by name; there may be none, since members are addressable by themselves."""
    members: dict[Name, MemberConfig] = Field(min_length=1, max_length=MAX_MEMBERS)
    """The members by name, 64 at most; ensembles and members share one namespace."""
    devices: Annotated[
        Annotated[Literal["auto"], Tag("<auto>")]
        | Annotated[tuple[DeviceConfig, ...], Field(min_length=1), Tag("<list>")],
        Discriminator(
            _form,
            custom_error_type="devices",
            custom_error_message="should be auto or a list of devices",
        ),
    ] = "auto"
    """What predictions run on: `auto` is every CUDA device and the CPU's cores."""
    allocation: Annotated[
        Annotated[Literal["auto"], Tag("<auto>")] | Annotated[RelativePath, Tag("<file>")],
        Discriminator(
            _form,
            custom_error_type="allocation",
            custom_error_message="should be auto or the path of an allocation file",
        ),
    ] = "auto"
    """Which member runs on which device: `auto`, or an allocation file by relative path."""
    placement: PlacementConfig = PlacementConfig()
    """How an `auto` allocation is searched for."""
    server: ServerConfig = ServerConfig()
    """How the server listens and what it accepts."""

    _directory: Path = PrivateAttr(default_factory=Path.cwd)
    _files: Mapping[Path, FileSource] = PrivateAttr(default_factory=dict)
    _document: Mapping[str, Any] = PrivateAttr(default_factory=dict)
    _path: Path = PrivateAttr(default_factory=Path)

    @property
    def directory(self) -> Path:
        """The directory of the configuration file."""
        return self._directory

    @property
    def files(self) -> Mapping[Path, FileSource]:
        """What is to be fetched or checked, by the path that stands for it in the configuration."""
        return self._files

    @property
    def document(self) -> Mapping[str, Any]:
        """What it was read from, without the environment's overrides."""
        return self._document

    @property
    def path(self) -> Path:
        """The file, or the directory, that it was read from."""
        return self._path

    def model_post_init(self, context: Any, /) -> None:
        """Remember what the validation context says of its origin and of files."""
        if isinstance(context, Mapping):
            self._directory = context.get("directory", self._directory)
            self._files = context.get("files", self._files)
            self._document = context.get("document", self._document)
            self._path = context.get("path", self._path)

    @field_validator("ensembles", "placement", "server", mode="before")
    @classmethod
    def _empty_is_absent(cls, value: Any) -> Any:
        return {} if value is None else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = []
        for name, ensemble in self.ensembles.items():
            if name in self.members:
                problems.append(f"ensembles.{name}: there is a member of the same name, rename one")
            for key, section in ensemble.sections.items():
                for member in {public_name(one).name: None for one in section.members}:
                    if member not in self.members:
                        problems.append(
                            f"ensembles.{name}{key}.members: unknown member {member!r}"
                            f"{did_you_mean(member, self.members)}"
                        )
        if self.placement.follow and self.allocation != "auto":
            problems.append("allocation: a file stays as it is, remove it or placement.follow")
        if self.devices != "auto":
            problems += device_problems(self.devices)
        if problems:
            raise ValueError("\n".join(problems))
        return self
