"""Runs recipes: ``workers.builder FD OUTPUT DIRECTORY SOURCE NAME...``, the builder's child.

Imports SOURCE, a Python file or a dotted module, calls the named functions in it, and has them
write ``OUTPUT/NAME.onnx``. A JSON line (`Event`) goes to the descriptor for every stage.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from functools import partial
from pathlib import Path

import msgspec

from workers.builder.builder import Event
from workers.runtime.importing import import_module
from workers.runtime.texts import one_line

#: What ``ensembled[demo]`` installs, the packages that the recipes in examples/ use.
_DEMO = {"onnx", "onnxscript", "sklearn", "torch"}


def main(arguments: list[str]) -> int:
    """Run the named recipes of one source; return the exit code."""
    events_fd, output, directory, source, *names = arguments
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with os.fdopen(int(events_fd), "wb", buffering=0) as events:

        def send(event: Event) -> None:
            events.write(msgspec.json.encode(event) + b"\n")

        def report(name: str, stage: str) -> None:
            send(Event(name, stage))

        name = names[0]
        try:
            module = import_module(source, directory)
            for name in names:
                labels = getattr(module, name)(Path(output, f"{name}.onnx"), partial(report, name))
                if labels:
                    lines = "".join(f"{label}\n" for label in labels)
                    Path(output, f"{name}.txt").write_text(lines, encoding="utf-8")
        except Exception as failure:
            traceback.print_exc()
            send(Event(name, error=f"recipe {name}: {_reason(failure)}"))
            return 1
    return 0


def _reason(failure: Exception) -> str:
    if not isinstance(failure, ModuleNotFoundError) or failure.name is None:
        return one_line(failure)
    package = failure.name.partition(".")[0]
    fix = ": pip install 'ensembled[demo]'" if package in _DEMO else ""
    return f"needs the package {package}{fix}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
