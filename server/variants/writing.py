"""Writes what `ensembled variants` offers: a configuration with variants, a library with copies.

Runs in the process of the command line. A configuration and checked copies flow in; the text of
YAML files, and model files in their place, flow out.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from server.config import Config
from server.config.relocation import relocated, relocated_members
from server.variants.comparison import CheckedCopy
from server.variants.copies import RUNS_ON, copy_sections

__all__ = ["configuration_text", "library_text", "move_models"]

#: Digits of a disagreement.
_PRECISION = 10_000
#: Sections that a library takes over.
_SHARED = ("devices", "placement", "server")


def move_models(offered: Iterable[CheckedCopy], directory: Path) -> list[CheckedCopy]:
    """Move the files of copies, each with what lies beside it, to where they are to stay."""
    directory.mkdir(parents=True, exist_ok=True)
    moved = []
    for checked in offered:
        copy = checked.copy
        for file in (*copy.path.parent.glob(f"{copy.path.name}*"), copy.labels):
            if file is not None and file.exists():
                # It may come from another file system, and a server may read the one it replaces.
                part = directory / f".{file.name}.part"
                shutil.move(file, part)
                part.replace(directory / file.name)
        path = directory / copy.path.name
        moved.append(replace(checked, copy=replace(copy, path=path)))
    return moved


def configuration_text(
    config: Config, offered: Sequence[CheckedCopy], max_disagreement: float, directory: Path
) -> str:
    """Return the configuration, for a file in a directory, with copies as variants.

    `config` is as it was read, with versions.
    """
    document = relocated(config, config, directory)
    for checked in offered:
        copy = checked.copy
        section = document["members"][copy.member.name]
        share = checked.movement.disagreement.share
        section.setdefault("variants", {})[str(copy.precision)] = {
            "model": os.path.relpath(copy.path, directory),
            "runs_on": RUNS_ON[copy.precision],
            "disagreement": math.ceil(share * _PRECISION) / _PRECISION,
        }
        section["may_differ"] = max_disagreement
    about = (
        f"# Variants by `ensembled variants`: up to {max_disagreement:.2%} of the rows may be\n"
        "# answered differently than by the members' own models. may_differ: 0 turns them off.\n"
    )
    return about + yaml.safe_dump(document, sort_keys=False)


def library_text(config: Config, offered: Sequence[CheckedCopy], directory: Path) -> str:
    """Return the members, for a file in a directory, with copies as members of their own."""
    sections = relocated_members(config, directory)
    copies = copy_sections(sections, [checked.copy for checked in offered], directory)
    shared = relocated(config, config, directory)
    document = {key: shared[key] for key in _SHARED if key in shared}
    about = "# Members, and their copies at lower precision by `ensembled variants`.\n"
    return about + yaml.safe_dump({"members": {**sections, **copies}, **document}, sort_keys=False)
