"""Files and directories that a configuration names: by a relative path or a URL, pinned or not.

Runs in the process that reads the configuration file. All become paths: that of a URL stands for
what is there until `server.members.files` has fetched it. What is to be fetched or checked is noted
in the validation context as ``{"files": dict}``, from which `Config.files` takes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    GetPydanticSchema,
    PlainSerializer,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from server.config.base import RelativePath, Section, absolute_path
from workers.fetcher.source import SCHEMES, FileSource, redacted, scheme_of

__all__ = [
    "FilePath",
    "MlflowDirectory",
    "PinnedFileConfig",
    "TransformersDirectory",
    "names_file",
]

_LIKE_FILES = {
    "hf": "hf://ORG/REPO/FILE",
    "s3": "s3://BUCKET/KEY",
    "https": "https://HOST/FILE",
    "http": "http://HOST/FILE",
}
_LIKE_DIRECTORIES = {"hf": "hf://ORG/REPO", "s3": "s3://BUCKET/PREFIX"}
#: What transformers opens; no pickles, no code, no weights of other frameworks, no directories.
_OF_TRANSFORMERS = r"[^/]+\.(json|safetensors|txt|model)"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _check_hash(text: str) -> str:
    if not _SHA256.fullmatch(text := text.strip().lower()):
        raise ValueError("should be 64 hexadecimal digits, as sha256sum prints them")
    return text


class PinnedFileConfig(Section):
    """A file by its location, and the hash of its content, without which it is not used."""

    file: str | None = Field(default=None, min_length=1)
    """A relative path."""
    url: str | None = Field(default=None, min_length=1)
    """`https://`, `hf://ORG/REPO[@REVISION]/FILE` or `s3://BUCKET/KEY`, instead of `file`."""
    sha256: Annotated[str, AfterValidator(_check_hash)] | None = None
    """SHA-256 of the content, in hexadecimal digits; if absent, any content will do."""

    @property
    def location(self) -> str:
        """The path or the URL."""
        return self.url or self.file or ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.file is None) == (self.url is None):
            raise ValueError("needs file (a path) or url, and not both")
        if self.url is not None and not scheme_of(self.url):
            raise ValueError(f"url should begin with https://, hf:// or s3://, not {self.url!r}")
        return self


def names_file(value: Any) -> bool:
    """Whether a value is a file's location, or a mapping with one."""
    return isinstance(value, str | Path | PinnedFileConfig) or (
        isinstance(value, Mapping) and not {"file", "url", "sha256"}.isdisjoint(value)
    )


def _form(value: Any) -> str | None:
    if isinstance(value, str) and scheme_of(value):
        return "<url>"
    if isinstance(value, str | Path):
        return "<path>"
    return "<pinned>" if isinstance(value, Mapping | PinnedFileConfig) else None


def _as_path(
    value: Path | str | PinnedFileConfig, info: ValidationInfo, *, files: str = ""
) -> Path:
    """Return the path of a file, and note what is to be fetched or checked.

    `files` says which files of a directory are wanted, see `FileSource`; it is empty for a file.
    """
    if isinstance(value, Path):
        return value
    location, sha256 = value, ""
    if isinstance(value, PinnedFileConfig):
        location, sha256 = value.location, value.sha256 or ""
    assert isinstance(location, str)
    if files and sha256:
        raise ValueError(
            f"{redacted(location)}: sha256 pins a single file; what pins a directory is its "
            "commit, as in hf://ORG/REPO@COMMIT"
        )
    if scheme := scheme_of(location):
        _check_url(location, scheme, sha256, is_directory=bool(files))
        source = FileSource(location.rstrip("/") if files else location, sha256, files=files)
        path = Path(f"{scheme}:", source.digest, sha256 or "any", source.name)
    else:
        path = absolute_path(Path(location), info)
        source = FileSource(str(path), sha256)
    if source.scheme or sha256:
        noted = (info.context or {}).get("files", {}).setdefault(path, source)
        if noted != source:
            raise ValueError(f"{source.shown} is pinned to two hashes, of which one is wrong")
    return path


def _check_url(url: str, scheme: str, sha256: str, *, is_directory: bool) -> None:
    shown = redacted(url)
    if scheme not in SCHEMES:
        known = ", ".join(f"{one}://" for one in SCHEMES)
        raise ValueError(f"{shown}: should be a path, or begin with one of {known}")
    if is_directory and scheme in {"http", "https"}:
        raise ValueError(
            f"{shown}: {scheme}:// can't list the files of a directory, use hf://ORG/REPO or "
            "s3://BUCKET/PREFIX, or the path of a copy"
        )
    if scheme == "http" and not sha256:
        raise ValueError(
            f"{shown}: anybody on the way can change what http:// gives, use https:// or give "
            "{url: ..., sha256: ...}"
        )
    _, _, rest = shown.partition("://")
    host, slash, path = rest.partition("/")
    if not host or not path.strip("/") or (scheme == "hf" and "/" not in path + is_directory * "/"):
        kind, likes = ("directory", _LIKE_DIRECTORIES) if is_directory else ("file", _LIKE_FILES)
        raise ValueError(f"{shown}: names no {kind}, it should be like {likes[scheme]}")


_Location = Annotated[
    Annotated[RelativePath, Tag("<path>")]
    | Annotated[str, WithJsonSchema({"type": "string", "format": "uri"}), Tag("<url>")]
    | Annotated[PinnedFileConfig, Tag("<pinned>")],
    Discriminator(
        _form,
        custom_error_type="file",
        custom_error_message="should be a path, a URL or {file: ..., sha256: ...}",
    ),
]

_SCHEMA = GetPydanticSchema(lambda _, handler: handler(_Location))
_AS_IT_IS = PlainSerializer(lambda path: path)

#: A file that may be elsewhere, or pinned.
FilePath = Annotated[Path, _SCHEMA, AfterValidator(_as_path), _AS_IT_IS]
#: Directories that may be elsewhere, with the files that are fetched then.
TransformersDirectory = Annotated[
    Path, _SCHEMA, AfterValidator(partial(_as_path, files=_OF_TRANSFORMERS)), _AS_IT_IS
]
MlflowDirectory = Annotated[Path, _SCHEMA, AfterValidator(partial(_as_path, files=".+")), _AS_IT_IS]
