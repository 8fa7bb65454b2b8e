"""Reads our Dockerfile: its text in, its stages and their instructions out.

It knows the instructions and flags that ours uses, and refuses others, so that whoever adds one
learns that the replay (`replay.py`) does not follow it yet.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Instruction", "Stage", "expand", "read_dockerfile"]

_KNOWN = {
    "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "RUN", "USER",
    "VOLUME", "WORKDIR",
}  # fmt: skip
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")


@dataclass(frozen=True)
class Instruction:
    """One instruction: its word, its flags (``--name=value``) and the text after them."""

    word: str
    flags: dict[str, str]
    text: str

    @property
    def words(self) -> list[str]:
        """The text as the exec form's array, or split as a shell would."""
        return json.loads(self.text) if self.text.startswith("[") else shlex.split(self.text)

    @property
    def pairs(self) -> dict[str, str]:
        """The text as NAME=VALUE pairs; without a value it is empty."""
        return {word.partition("=")[0]: word.partition("=")[2] for word in self.words}


@dataclass
class Stage:
    """One stage: its name, what it is made from, and what is done."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)


def expand(text: str, values: dict[str, str]) -> str:
    """Put values in the place of ``$NAME`` and ``${NAME}``; names without one become empty."""
    return _VARIABLE.sub(lambda match: values.get(match[1] or match[2], ""), text)


def read_dockerfile(path: Path) -> tuple[dict[str, str], dict[str, Stage]]:
    """Return the arguments before the first stage, with their defaults, and the stages by name."""
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for line in _logical_lines(path.read_text()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, as_, name = rest.split()
            assert as_ == "AS", line
            stage = stages[name] = Stage(name, expand(base, arguments))
        elif stage is None:
            assert word == "ARG", line
            arguments.update(Instruction(word, {}, rest).pairs)
        else:
            stage.instructions.append(_instruction(word, rest))
    return arguments, stages


def _instruction(word: str, text: str) -> Instruction:
    assert word in _KNOWN, f"unknown instruction {word}"
    flags = {}
    while word in {"RUN", "COPY", "HEALTHCHECK"} and text.startswith("--"):
        flag, _, text = text.partition(" ")
        name, _, value = flag.removeprefix("--").partition("=")
        flags[name] = value
        text = text.lstrip()
    return Instruction(word, flags, text)


def _logical_lines(text: str) -> list[str]:
    lines, line = [], ""
    for raw in text.splitlines():
        if raw.lstrip().startswith("#") or not raw.strip():
            continue
        line += raw.strip()
        if line.endswith("\\"):
            line = line[:-1].rstrip() + " "
        else:
            lines.append(line)
            line = ""
    assert not line, "the last line goes on"
    return lines
