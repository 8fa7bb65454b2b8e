"""The first code of every child process, before anything is imported that may print.

Runs in children only: ``python -u -P -m workers.runtime.child_main MODULE ARGUMENT...`` runs a
module as a program. The parent (see `workers.runtime.child_process`) reads what is printed on
descriptors 1 and 2; the child's results go through a separate descriptor, which is among the
arguments.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import runpy
import sys
from typing import NoReturn

from workers.runtime.environment import prepare_environment

__all__ = ["end_with", "flush_c", "main"]

_LINE_BUFFERED = 1


def main() -> None:
    """Run the module that the command line names."""
    # What a library prints before it kills the process must not stay in a buffer; for Python's own
    # streams `-u` takes care of that.
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not glibc
        library = ctypes.CDLL(None)
        library.setvbuf(ctypes.c_void_p.in_dll(library, "stdout"), None, _LINE_BUFFERED, 0)
    _close_descriptors_on_exec()
    prepare_environment()  # it was warned about in the process of the command line
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def end_with(answer: bytes) -> NoReturn:
    """End a child of `run_child` with its answer, without waiting for threads of users' modules."""
    with os.fdopen(int(sys.argv[1]), "wb") as parent:
        parent.write(answer)
    sys.stdout.flush()
    flush_c()
    os._exit(0)


def flush_c() -> None:
    """Flush C's stdio buffers; for a process that ends by `os._exit`."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).fflush(None)


def _close_descriptors_on_exec() -> None:
    """Keep inherited descriptors from the programs that a model or a rule may start."""
    with contextlib.suppress(OSError):  # not Linux
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the directory's own, which is closed by now
                if int(name) > 2:
                    os.set_inheritable(int(name), False)


if __name__ == "__main__":
    main()
