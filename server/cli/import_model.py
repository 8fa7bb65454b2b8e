"""`ensembled import`: says what a model file or directory is, and writes the member's entry.

Runs in the process of the command line. A path flows in; it is recognised by its content, then
inspected in a child process as `ensembled check` does. The entry flows out, as YAML with comments.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from server.cli.application import file_errors, write_output
from server.config import Config, LibraryConfig, backend_for
from server.config.editing import EditError, with_member
from server.config.problems import problem_lines
from server.errors import ConfigError
from server.members.inspect import InspectedMember, inspect_members
from server.members.outputs import MemberOutput
from server.stdout import echo
from workers.adapters.formats import ONNX, PYTHON, TRITON, Format, recognise
from workers.runtime.spec import TensorSpec

__all__ = ["import_model"]

_MOST_LABELS = 8
_RISK = (
    "trust_pickle: opening it runs whatever code is in it, now and in the worker; "
    "only for files from people you trust"
)


def import_model(
    reference: str,
    *,
    config: Path | None,
    name: str | None,
    output_name: str | None,
    trust_pickle: bool,
) -> None:
    """Recognise and inspect a model; print its entry, or add it to a configuration.

    Args:
        reference: its path, for a Python file perhaps with ``:CLASS``.
        config: the configuration to add it to; printed if absent.
        name: of the member; made of the path's if absent.
        output_name: which of the model's outputs to use.
        trust_pickle: whether a pickle may be opened.

    Raises:
        ConfigError: if it is no model that can be served, with the fix.
    """
    where, _, chosen = reference.partition(".py:")
    found, path = _recognise(Path(f"{where}.py" if chosen else reference))
    directory = (config or Path("config.yaml")).absolute().parent
    name = name or _name(path)
    entry = _entry(found, path, chosen, directory)
    if output_name is not None:
        entry["output_name"] = output_name
    if trust_pickle and isinstance(entry["model"], dict):
        entry["model"]["trust_pickle"] = True
    member = _inspect({name: entry}, directory)
    text = yaml.safe_dump({name: entry}, sort_keys=False, allow_unicode=True, width=1000)
    comments = [f"# {line}" for line in _findings(found, path, member)]
    lines = text.splitlines()
    if config is None:
        echo("\n".join([*comments, "members:", *(f"  {line}" for line in lines)]))
        return
    _add(config, name, lines)
    echo("\n".join([*comments, f"added to {config} as {name}"]))


def _recognise(path: Path) -> tuple[Format, Path]:
    """Return what a path is, and the path of the model in it."""
    with file_errors(str(path)):
        found = recognise(path)
        models = [one for one in path.glob("*/model.*") if one.parent.name.isdecimal()]
        versions = sorted(models, key=lambda one: int(one.parent.name))
        if found is TRITON and versions:
            path = versions[-1]
            found = recognise(path)
    if not found.key:
        raise ConfigError(f"{path}: this is {found.name}: {found.fix}")
    return found, path


def _name(path: Path) -> str:
    """Return a name for a member after its file or directory."""
    stem = path.stem if path.is_file() else path.absolute().name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "model"


def _entry(found: Format, path: Path, chosen: str, directory: Path) -> dict[str, Any]:
    """Return a member's section; paths in the configuration's directory are relative to it."""
    absolute = Path(os.path.abspath(path))
    is_inside = absolute.is_relative_to(directory)
    location = str(absolute.relative_to(directory)) if is_inside else str(absolute)
    if found is PYTHON:
        return {"model": {"python": f"{location}:{chosen or _only_class(path)}"}}
    if found.key != "path":
        return {"model": {found.key: location}}
    entry = {"model": location}
    if backend_for(path) is None:
        entry["backend"] = "onnx" if found is ONNX else "torch"
    return entry


def _only_class(path: Path) -> str:
    """Return the class in a Python file that can be a member, or raise ConfigError."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{path}: is not Python: {error}") from None
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    fit = [node.name for node in classes if _is_member(node)]
    if len(fit) != 1:
        what = ", ".join(fit) or "no class with predict, and no torch module"
        raise ConfigError(f"{path}: defines {what}: name the class, {path.name}:CLASS")
    return fit[0]


def _is_member(node: ast.ClassDef) -> bool:
    methods = {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
    is_module = any(ast.unparse(base).rpartition(".")[2] == "Module" for base in node.bases)
    return "predict" in methods or (is_module and "forward" in methods)


def _inspect(members: dict[str, Any], directory: Path) -> InspectedMember:
    context = {"directory": directory, "files": {}}
    try:
        config = Config.model_validate({"members": members}, context=context)
    except ValidationError as error:
        raise ConfigError(problem_lines(error, "import")) from None
    (member,) = inspect_members(config)
    return member


def _findings(found: Format, path: Path, member: InspectedMember) -> Iterator[str]:
    size = member.signature.parameter_bytes or path.stat().st_size
    needs = ""
    if isinstance(member.config.model, LibraryConfig):
        needs = f"; needs ensembled[{member.config.model.key()}]"
    yield f"{path}: {found.name}, {size:,} bytes{needs}"
    if getattr(member.config.model, "trust_pickle", False):
        yield _RISK
    yield f"inputs: {', '.join(_described(one) for one in member.signature.inputs)}"
    yield f"outputs: {', '.join(_output(one) for one in member.outputs)}"


def _described(tensor: TensorSpec) -> str:
    return f"{tensor.name} {tensor.datatype} {[-1, *tensor.shape]}"


def _output(output: MemberOutput) -> str:
    text = f"{_described(output.tensor)}, {output.config.kind}"
    if not output.labels:
        return text
    more = ", ..." if len(output.labels) > _MOST_LABELS else ""
    return f"{text} of {', '.join(output.labels[:_MOST_LABELS])}{more}"


def _add(config: Path, name: str, lines: list[str]) -> None:
    """Add an entry to a configuration file, which is made if there is none."""
    with file_errors(str(config)):
        text = config.read_text(encoding="utf-8") if config.exists() else ""
    try:
        changed = with_member(text, name, lines)
    except (EditError, yaml.YAMLError) as error:
        raise ConfigError(f"{config}: can't add to it: {error}") from None
    write_output("--config", config, changed)
