"""An echo of raw bytes over grpc.aio: what gRPC leaves of the time when a call costs nothing.

``python -m benchmarks.grpc_echo`` is a child of a benchmark: it serves ModelInfer on a free port
of the loopback in one uvloop, prints ``HOST:PORT``, and ends with its stdin.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import uvloop

from benchmarks.errors import BenchmarkError

__all__ = ["main", "running_echo"]

_ROOT = Path(__file__).resolve().parent.parent
_SERVICE, _METHOD = "inference.GRPCInferenceService", "ModelInfer"


@contextlib.contextmanager
def running_echo() -> Iterator[str]:
    """Run the echo for the length of a block; where it is, ``HOST:PORT``.

    Raises:
        BenchmarkError: if it does not start.
    """
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "benchmarks.grpc_echo"],
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        address = child.stdout.readline().decode().strip()
        if not address:
            raise BenchmarkError(f"the echo over gRPC ended with status {child.wait()}")
        yield address
    finally:
        child.stdin.close()
        child.wait()
        child.stdout.close()


async def _echo(request: bytes, _context: Any) -> bytes:
    return request


async def _serve() -> None:
    server = grpc.aio.server()
    handlers = {_METHOD: grpc.unary_unary_rpc_method_handler(_echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(None)


def main() -> None:
    """Serve until stdin ends."""
    uvloop.run(_serve())


if __name__ == "__main__":
    main()
