"""Has copies of ONNX models made at lower precision, a child process each.

Runs in the process of a command, and imports no runtime for it. Paths of models and of calibration
rows flow in, a file with the copy comes to be; its maker (`workers.quantizer.__main__`) may need
much memory, or crash.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from workers.runtime.child_process import ChildError, run_child

__all__ = ["CopyError", "CopyResult", "CopyTask", "Precision", "make_copy"]

_TIMEOUT_S = 3600.0

#: ``int8`` has fixed ranges of activations, by calibration; ``int8-dynamic`` finds them per batch.
Precision = Literal["int8", "int8-dynamic", "fp16"]


class CopyTask(msgspec.Struct, frozen=True):
    """A copy to be made.

    Attributes:
        model: path of the ONNX file.
        output: path of the copy, in a directory where external weights may lie, too.
        inputs: for ``int8``, the model's own names of its inputs.
        calibration: for ``int8``, the path of an .npz file of these, [rows, ...] each, in their
            order and without their names.
    """

    model: str
    precision: Precision
    output: str
    inputs: tuple[str, ...] = ()
    calibration: str = ""


class CopyResult(msgspec.Struct, frozen=True):
    """What became of a task: `error` is empty, or says in one line why there is no copy."""

    error: str = ""


class CopyError(Exception):
    """A copy can't be made; the text is one line that says why."""


def make_copy(task: CopyTask) -> Path:
    """Make a copy, and return its path.

    Raises:
        CopyError: if the model can't be converted, or a package is missing.
    """
    name = f"{Path(task.model).name} at {task.precision}"
    try:
        answer = run_child(name, "workers.quantizer", msgspec.json.encode(task), _TIMEOUT_S)
    except ChildError as ended:
        raise CopyError(f"the process that makes the copy {ended}") from None
    if error := msgspec.json.decode(answer, type=CopyResult).error:
        raise CopyError(error)
    return Path(task.output)
