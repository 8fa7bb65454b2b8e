"""Adds a member to the text of a configuration, of which nothing else changes.

Runs in the process of the command line; pure. The text of a YAML file and an entry's lines flow in,
the new text flows out, comments and order as they were.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress

import yaml

__all__ = ["EditError", "with_member"]

_SECTION = re.compile(r"members:\s*(#.*)?")


class EditError(ValueError):
    """A text can't be changed by lines; the text says why."""


def with_member(text: str, name: str, entry: Sequence[str]) -> str:
    """Return the text with an entry at the end of its section `members`.

    Args:
        text: of the configuration; may be empty.
        name: of the member.
        entry: the lines of the entry, the first of which is ``NAME:``.

    Raises:
        EditError: if the section is written in a way that lines can't be added to, or has the name.
        yaml.YAMLError: if the text is not YAML.
    """
    before = _members(text)
    if name in before:
        raise EditError(f"there is a member {name!r} already, choose another name")
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if _SECTION.fullmatch(line)), len(lines))
    if start == len(lines):
        lines.append("members:")
    end = _end_of_block(lines, start)
    indent = _indent(lines[start + 1 : end])
    changed = "\n".join([*lines[:end], *(indent + line for line in entry), *lines[end:]]) + "\n"
    with suppress(yaml.YAMLError):
        if _members(changed) == before | yaml.safe_load("\n".join(entry)):
            return changed
    raise EditError("its section `members` is not a block of lines, add the entry by hand")


def _members(text: str) -> dict[str, object]:
    document = yaml.safe_load(text)
    members = document.get("members") if isinstance(document, dict) else None
    return dict(members) if isinstance(members, dict) else {}


def _end_of_block(lines: Sequence[str], start: int) -> int:
    """The line behind the last one of a block with content; comments before the next key stay."""
    end = start + 1
    for i in range(start + 1, len(lines)):
        line = lines[i]
        if line.strip() and not line.startswith((" ", "#")):
            break
        if line.startswith(" ") and line.strip():
            end = i + 1
    return end


def _indent(block: Sequence[str]) -> str:
    """The indentation of the first entry of a block."""
    first = next((line for line in block if line.strip() and not line.lstrip().startswith("#")), "")
    return first[: len(first) - len(first.lstrip())] or "  "
