"""Examines a PyTorch file before torch does: its format, and whether it is safe to load.

Runs in workers and in inspection, without importing torch. `torch.export.load` (2.13) unpickles
weights and constants that are marked ``use_pickle``, opaque objects, and sample inputs; it
resolves operators by walking attributes from ``torch``, evaluates size expressions and loads
compiled libraries. A network that can be served needs none of that, so files that use it are
refused here, and all others are loaded under `weights_only` (see `forced_weights_only`).
TorchScript contains code too, but in a language of its own that can't reach Python.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

__all__ = ["ArchiveError", "examine", "forced_weights_only"]

# A pickle of protocol 2 or later begins like this; torch.save wrote bare ones until torch 1.6.
_PICKLE_START = b"\x80"

_PAYLOAD_CONFIG = re.compile(r"data/(weights|constants)/.*_config\.json")
_COMPILED = ("data/aotinductor/", "data/executorch/", "data/mtia", "xl_model_weights/")

# Operators proper, and the handful of Python functions that shapes are computed with.
_OPERATOR = re.compile(
    r"torch\.ops\.(?!_)\w+\.(?:(?!__)\w+|__i?(?:and|or|xor|lshift|rshift)__)(?:\.(?!__)\w+)?"
    r"|torch\._?sym_\w+"
    r"|math\.\w+"
    r"|_operator\.(?!attrgetter|itemgetter|methodcaller|call)(?!__)\w+"
)
# The `srepr` of sympy for sums and products of sizes. It is evaluated with builtin functions in
# scope: so neither attributes nor lower-case names are allowed, but for symbols and keywords.
_EXPRESSION = re.compile(
    r"""(?!.*__)(?:
        '[\w.+-]*' | [A-Z]\w*+ | [a-z]+\d++\b | (?:floor|ceiling)\b | [a-z]++(?==)
        | \d[\d.eE]*+ | [\s+\-*/%(),<>=&|~!]
    )*+""",
    re.VERBOSE | re.DOTALL,
)

# torch.fx writes the names of inputs and parameters into the source code that it compiles.
_NAME = re.compile(r"[\w.]*")

_ENVIRONMENT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


class ArchiveError(Exception):
    """The file can't be loaded safely; the text says why."""


def examine(path: Path) -> Literal["exported", "torchscript"]:
    """Return the format of a PyTorch file after making sure that loading it runs no pickle.

    Raises:
        ArchiveError: if it is damaged, a pickled checkpoint, or an unsafe archive.
        OSError: if it can't be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _examine_archive(archive)
    except zipfile.BadZipFile:
        with path.open("rb") as file:
            start = file.read(1)
        if start == _PICKLE_START:
            raise _checkpoint() from None
        raise ArchiveError("not a PyTorch archive, or truncated") from None
    except (ValueError, KeyError, NotImplementedError, EOFError) as damage:
        raise ArchiveError(f"a damaged PyTorch archive ({damage})") from damage


@contextmanager
def forced_weights_only() -> Iterator[None]:
    """Make every `torch.load` within refuse pickles that hold more than tensors.

    `torch.export.load` retries a refused load without `weights_only`; torch's own environment
    variable overrides that.
    """
    before = os.environ.get(_ENVIRONMENT)
    os.environ[_ENVIRONMENT] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ENVIRONMENT]
        else:
            os.environ[_ENVIRONMENT] = before


def _checkpoint() -> ArchiveError:
    return ArchiveError(
        "a pickled checkpoint (torch.save), which could run any code when loaded: "
        "save the model with torch.export.save or torch.jit.save"
    )


def _examine_archive(archive: zipfile.ZipFile) -> Literal["exported", "torchscript"]:
    names = archive.namelist()
    # torch's reader ignores case and takes its root from the first name: refuse ambiguous archives.
    roots = {name.partition("/")[0] for name in names}
    if len(roots) != 1 or len({name.casefold() for name in names}) != len(names):
        raise ArchiveError("not a PyTorch archive, or one of an old format (or ambiguous names)")
    inner = {name.partition("/")[2]: name for name in names}
    if "archive_format" in inner or "archive_version" in inner:
        _refuse_unsafe(archive, inner)
        return "exported"
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return "torchscript"
    if "data.pkl" in inner:
        raise _checkpoint()
    raise ArchiveError("neither an exported program nor TorchScript")


def _refuse_unsafe(archive: zipfile.ZipFile, inner: dict[str, str]) -> None:
    """Raise unless the exported program consists of plain tensors and known operators."""
    if not any(name.startswith("models/") for name in inner):
        raise ArchiveError("an exported archive without a program")
    for name, full in inner.items():
        folded = name.casefold()
        if folded.startswith(_COMPILED):
            raise ArchiveError(f"holds compiled code ({name}): export it without compiling")
        if _PAYLOAD_CONFIG.fullmatch(folded):
            _refuse_pickles(json.loads(archive.read(full)))
        elif folded.startswith("models/"):
            _refuse_code(json.loads(archive.read(full)))


def _refuse_pickles(config: dict[str, Any]) -> None:
    for tensor, payload in config["config"].items():
        if not _NAME.fullmatch(tensor):
            raise ArchiveError(f"{tensor!r} is not a name")
        plain = payload["path_name"].startswith(("weight_", "tensor_"))
        if payload["use_pickle"] is not False or not plain:
            raise ArchiveError(
                f"{tensor!r} is stored as a pickle, which could run any code when loaded: "
                "export the model with plain dense tensors"
            )


def _refuse_code(program: object) -> None:
    """Raise if a program's JSON names anything but operators, or computes sizes oddly."""
    pending = [program]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, dict):
            pending.extend(value.values())
            target = value.get("target")
            # Only a node has inputs; elsewhere `target` is the name of a parameter.
            if isinstance(target, str) and "inputs" in value and not _OPERATOR.fullmatch(target):
                raise ArchiveError(f"calls {target!r}, which is not an operator of torch")
            for key, name in value.items():
                named = key == "name" or key.endswith("_name")
                if named and isinstance(name, str) and not _NAME.fullmatch(name):
                    raise ArchiveError(f"{name!r} is not a name")
            expression = value.get("expr_str")
            if isinstance(expression, str) and not _EXPRESSION.fullmatch(expression):
                raise ArchiveError(f"computes a size by {expression!r}, which is not arithmetic")
