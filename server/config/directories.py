"""Directories of versions: ``DIRECTORY/VERSION/model.onnx``, as Triton's repositories have them.

Runs in the process that reads the configuration file. The path of a directory flows in, versions
with their models flow out, as a configuration would name them; nothing is remembered.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from pathlib import Path

from server.config.base import VERSION_PATTERN, Section
from server.config.models import BACKENDS, KEYS_BY_SUFFIX, MODEL_SECTIONS

__all__ = ["find_model", "find_versions", "is_version", "warn_of_others"]

_STEM = "model"

_log = logging.getLogger(__name__)


def is_version(path: Path) -> bool:
    """Whether a path is the folder of a version: its name is a whole number from 1."""
    return re.fullmatch(VERSION_PATTERN, path.name) is not None and path.is_dir()


def find_versions(directory: Path) -> dict[str, Path]:
    """Return the folders in a directory that are versions.

    Raises:
        ValueError: if there are none.
        OSError: if the directory can't be read.
    """
    found = {one.name: one for one in sorted(directory.iterdir()) if is_version(one)}
    if not found:
        raise ValueError(f"there is no version in {directory}, such as 1/{_STEM}.onnx")
    return found


def warn_of_others(directory: Path) -> None:
    """Log a warning of folders in a directory that are no versions, unless they are hidden."""
    others: list[str] = []
    with suppress(OSError):  # which is told when the versions are looked for
        others += (
            one.name
            for one in sorted(directory.iterdir())
            if one.is_dir() and not is_version(one) and not one.name.startswith(".")
        )
    if others:
        _log.warning(
            "%s: not a version, which is a whole number from 1: %s", directory, ", ".join(others)
        )


def find_model(folder: Path, name: str | None) -> Path | Section:
    """Return the model in a version's folder as a member's `model`: by its name, or by its suffix.

    Raises:
        ValueError: if there is none, or more than one.
        OSError: if the folder can't be read.
    """
    if name is not None:
        if not (folder / name).is_file():
            raise ValueError(f"there is no file {folder / name}")
        return _reference(folder / name)
    known = {*BACKENDS, *KEYS_BY_SUFFIX}
    found = [
        one
        for one in sorted(folder.iterdir())
        if one.stem == _STEM and one.suffix.lower() in known and one.is_file()
    ]
    if len(found) != 1:
        there = " and ".join(one.name for one in found)
        raise ValueError(
            f"{folder} has {there}: give the name of the model by file"
            if found
            else f"there is no {_STEM}.onnx in {folder}, nor {_STEM} with another suffix of "
            f"{', '.join(sorted(known - {'.onnx'}))}"
        )
    return _reference(found[0])


def _reference(path: Path) -> Path | Section:
    """A path, or the section of the library that opens it."""
    key = KEYS_BY_SUFFIX.get(path.suffix.lower())
    return path if key is None else MODEL_SECTIONS[key].model_validate({key: path})
