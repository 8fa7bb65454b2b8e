"""What grpc.aio leaves possible: an echo of raw bytes, in a process of its own.

As many servers share the port and the event loop as suits eight connections best; nothing is
parsed, and every answer is the same.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import uvloop

from benchmarks.errors import BenchmarkError

__all__ = ["running_echo"]

_SERVERS = 32
_ANSWER = bytes(150)


@contextmanager
def running_echo() -> Iterator[str]:
    """Its address, for the length of a block.

    Raises:
        BenchmarkError: if it does not start.
    """
    command = [sys.executable, "-m", "benchmarks.grpc_echo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip()
            if not port:
                raise BenchmarkError("the echo of grpc.aio does not start")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


async def _answer(messages: Any, context: Any) -> bytes:
    del messages
    await context.read()
    return _ANSWER


class _AnyMethod(grpc.GenericRpcHandler):  # type: ignore[misc]
    def service(self, handler_call_details: Any) -> Any:
        del handler_call_details
        return grpc.stream_unary_rpc_method_handler(_answer)


async def _serve() -> None:
    port, servers = 0, []
    for _ in range(_SERVERS):
        server = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
        server.add_generic_rpc_handlers((_AnyMethod(),))
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        servers.append(server)
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve())
