"""The first instructions of every child process, before anything is imported that may print.

Runs in children only: ``python -u -P -m workers.runtime.child_main MODULE ARGUMENT...`` runs a
module as a program. The parent (see `workers.runtime.child_process`) reads what is printed on
descriptors 1 and 2; the child's answers go through a descriptor of their own, which is among the
arguments.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import runpy
import sys

__all__ = ["flush_c", "main"]

_LINE_BUFFERED = 1


def main() -> None:
    """Run the module that the command line names."""
    # What a library prints last must be out when it kills the process; `-u` does it for Python.
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not glibc
        library = ctypes.CDLL(None)
        library.setvbuf(ctypes.c_void_p.in_dll(library, "stdout"), None, _LINE_BUFFERED, 0)
    _keep_descriptors()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def flush_c() -> None:
    """Write out what C code has printed; for a process that ends by `os._exit`."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).fflush(None)


def _keep_descriptors() -> None:
    """Keep what was inherited from the programs that a model or a rule may start."""
    with contextlib.suppress(OSError):  # not Linux
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the directory's own, which is closed by now
                if int(name) > 2:
                    os.set_inheritable(int(name), False)


if __name__ == "__main__":
    main()
