"""uvicorn alone: reads a request's body and answers a fixed one. The floor of a Python server.

``python -m benchmarks.peers.servers.uvicorn_server``, in our own environment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from benchmarks.peers.servers.task import Task

__all__ = ["main"]

_HEADERS = [(b"content-type", b"application/octet-stream")]


def main() -> None:
    """Serve until a signal."""
    task = Task.read()
    answer = bytes(4 * task.outputs)
    headers = [*_HEADERS, (b"content-length", str(len(answer)).encode())]

    async def application(
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        assert scope["type"] == "http"
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    uvicorn.run(
        application,
        host="127.0.0.1",
        port=task.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
