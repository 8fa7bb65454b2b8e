"""Makes one copy of an ONNX model at lower precision: ``workers.quantizer FD``, a child's program.

A `CopyTask` flows in as JSON on stdin, a `CopyResult` flows out. What does the work
(`workers.quantizer.conversion`) is imported here by name: without its packages there is a result
that says which.
"""

from __future__ import annotations

import importlib
import logging
import sys
import warnings

import msgspec

from workers.quantizer.copies import CopyResult, CopyTask
from workers.runtime.child_main import end_with
from workers.runtime.texts import one_line

#: What ``ensembled[variants]`` installs, beside a runtime.
_EXTRA = {"onnx", "sympy"}


def main() -> None:
    """Make the copy that stdin describes and write what became of it."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=CopyTask)
    try:
        importlib.import_module("workers.quantizer.conversion").convert(task)
    except Exception as failure:
        result = CopyResult(_reason(failure))
    else:
        result = CopyResult()
    end_with(msgspec.json.encode(result))


def _reason(failure: Exception) -> str:
    if not isinstance(failure, ModuleNotFoundError) or failure.name is None:
        return one_line(failure)
    package = failure.name.partition(".")[0]
    fix = ": pip install 'ensembled[variants]'" if package in _EXTRA else ""
    return f"needs the package {package}{fix}"


if __name__ == "__main__":
    main()
