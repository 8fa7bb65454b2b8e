"""BentoML: workers that each run all members on one row, raw bytes in and out.

``python -m benchmarks.peers.servers.bentoml_server``, in BentoML's environment. Its own endpoints
take JSON or forms, and only they batch: with them it answers fewer small requests than so, by an
ASGI application of ours in its service.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import bentoml

from benchmarks.peers.servers.fused import Fused
from benchmarks.peers.servers.task import Task

__all__ = ["Ensemble"]

_TASK = Task.read()
_HEADERS = [
    (b"content-type", b"application/octet-stream"),
    (b"content-length", str(4 * _TASK.outputs).encode()),
]


class _Application:
    """The way of a request in a worker."""

    def __init__(self) -> None:
        self.members: Fused | None = None

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        assert self.members is not None
        assert scope["type"] == "http"
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        answer = self.members.predict(self.members.row(bytes(body))[None])
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": answer.tobytes()})


_APPLICATION = _Application()


@bentoml.service(
    workers=_TASK.workers,
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
@bentoml.asgi_app(_APPLICATION, path="/raw")
class Ensemble:
    """One process with all members."""

    def __init__(self) -> None:
        _APPLICATION.members = Fused(_TASK)


def main() -> None:
    """Become BentoML's server."""
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    arguments = ["--host", "127.0.0.1", "--port", str(_TASK.port)]
    name = "benchmarks.peers.servers.bentoml_server:Ensemble"
    os.execv(sys.executable, [sys.executable, "-P", "-m", "bentoml", "serve", name, *arguments])


if __name__ == "__main__":
    main()
