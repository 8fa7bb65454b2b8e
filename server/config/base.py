"""The base model of all sections of the configuration, and the value types they share.

Runs in the process that reads the configuration file; raw YAML values flow in, validated Python
values flow out. Paths become absolute: the validation context carries the directory of the
configuration file as ``{"directory": Path}``.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    GetPydanticSchema,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

__all__ = [
    "Bytes",
    "Distinct",
    "MemberName",
    "Name",
    "RelativePath",
    "Section",
    "UnknownKey",
    "VERSION_PATTERN",
    "Version",
    "absolute_path",
    "versions_as_text",
]

#: Names of ensembles and members are parts of URLs, in which ``/v2/models/stats`` has a meaning.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RESERVED = {"stats"}
#: As Triton's directories of versions; it fits 63 bits.
VERSION_PATTERN = r"[1-9][0-9]{0,17}"
_Item = TypeVar("_Item")


class UnknownKey(NamedTuple):
    """Stands for the value of an unknown key of a section.

    Attributes:
        valid_keys: of the section.
    """

    valid_keys: list[str]


class Section(BaseModel):
    """A frozen part of the configuration; unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _mark_unknown_keys(cls, section: Any) -> Any:
        # Their errors then carry the valid keys, from which one is suggested.
        if not isinstance(section, Mapping):
            return section
        keys = [field.alias or name for name, field in cls.model_fields.items()]
        return {key: section[key] if key in keys else UnknownKey(keys) for key in section}

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        # YAML reads a bare `yes`, `no`, `on` and `off` as booleans, which pass for 0 and 1.
        takes = info.field_name and cls.model_fields[info.field_name].annotation is bool
        if isinstance(value, bool) and not takes:
            raise ValueError(
                f"is {str(value).lower()}, which this key does not take (text needs quotes)"
            )
        return value


def _check_distinct(values: tuple[_Item, ...]) -> tuple[_Item, ...]:
    for value, count in Counter(values).items():
        if count > 1:
            raise ValueError(f"{value!r} is listed more than once")
    return values


def _check_name(name: str) -> str:
    if "@" in name:
        raise ValueError(
            f"the name {name!r} should not contain '@': versions are given by versions"
        )
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"the name {name!r} should consist of letters, digits, '.', '_' and '-', "
            "and start with a letter or a digit"
        )
    if name in _RESERVED:
        raise ValueError(f"the name {name!r} is reserved, choose another one")
    return name


def _check_version(value: Any) -> Any:
    text = str(value) if type(value) is int else value
    if not isinstance(text, str) or not re.fullmatch(VERSION_PATTERN, text):
        raise ValueError(f"a version should be a whole number from 1, not {value!r}")
    return text


def _check_member_name(name: str) -> str:
    public, at, version = name.partition("@")
    _check_name(public)
    if at:
        _check_version(version)
    return name


def absolute_path(path: Path, info: ValidationInfo) -> Path:
    """Return a path of the configuration, which is relative to its directory, as an absolute one.

    Raises:
        ValueError: if it begins with the home directory of an unknown user.
    """
    directory = (info.context or {}).get("directory", Path.cwd())
    try:
        path = path.expanduser()
    except RuntimeError:
        raise ValueError(f"there is no home directory {path.parts[0]}") from None
    # Symbolic links are kept: the target may lack the suffix that determines the format.
    return Path(os.path.abspath(directory / path))


def versions_as_text(versions: Any) -> Any:
    """Return a mapping of versions with keys of text, where YAML has read numbers."""
    if not isinstance(versions, Mapping):
        return versions
    return {str(key) if type(key) is int else key: one for key, one in versions.items()}


#: A list of one value at least, without repetition.
Distinct = Annotated[tuple[_Item, ...], Field(min_length=1), AfterValidator(_check_distinct)]

Name = Annotated[str, AfterValidator(_check_name)]

#: A member, or one of its versions: ``NAME@VERSION``.
MemberName = Annotated[str, AfterValidator(_check_member_name)]

#: A version of a member or an ensemble: a positive whole number, as text.
Version = Annotated[
    str,
    BeforeValidator(_check_version),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": f"^{VERSION_PATTERN}$"},
            ]
        }
    ),
]

RelativePath = Annotated[Path, AfterValidator(absolute_path)]

Bytes = Annotated[
    int,
    GetPydanticSchema(lambda _, handler: handler(ByteSize)),
    AfterValidator(int),  # ByteSize is a subclass, which msgspec does not encode
    Field(ge=1),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": r"^\s*\d*\.?\d+\s*\w+\s*$"},
            ],
            "title": "bytes",
        }
    ),
]
