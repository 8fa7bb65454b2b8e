"""The command line as a child process that stops when its parent dies.

Started by `server.measurement.server` as ``python -m server.cli.serve_for_parent ARGUMENT...``,
with the arguments of `ensembled`.
"""

import contextlib
import ctypes
import signal

from server.cli.entry import main

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    with contextlib.suppress(OSError, AttributeError):  # not Linux: the parent stops it in order
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    main()
