"""The model repository over HTTP, and the extensions of other servers that this one has not.

Runs in the front-end. The index is the truth; loading, unloading, shared memory, traces and
logging are refused in the protocol's shape, so that clients of such servers learn what is amiss.
"""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

import msgspec
from fastapi import FastAPI, Request

from server.errors import InvalidRequest
from server.http_api.body import BodyReader, Disconnected
from server.inference.inference import Inference

__all__ = ["add_repository_routes", "add_unsupported_routes"]

_MAX_BODY_BYTES = 1 << 16
_METHODS = ["GET", "POST"]
_UNSUPPORTED = {
    "shared memory": ("/v2/systemsharedmemory/{rest:path}", "/v2/cudasharedmemory/{rest:path}"),
    "tracing": ("/v2/trace/setting", "/v2/models/{model}/trace/setting"),
    "changing the log": ("/v2/logging",),
    "generating text": ("/v2/models/{model}/generate", "/v2/models/{model}/generate_stream"),
}


class _IndexRequest(msgspec.Struct):
    ready: bool = False


_decode = msgspec.json.Decoder(_IndexRequest).decode


def add_repository_routes(api: FastAPI, inference: Inference, threads: Executor) -> None:
    """Add ``/v2/repository``."""
    reader = BodyReader(_MAX_BODY_BYTES, threads)

    @api.post("/v2/repository/index")
    async def index(request: Request) -> list[dict[str, Any]]:
        """All models with their state; ``{"ready": true}`` asks for those that are ready."""
        try:
            body = await reader.read(dict(request.scope["headers"]), request.receive)
            asked = _decode(body) if body.strip() else _IndexRequest()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequest(f"the JSON of the request is not valid: {error}") from None
        except Disconnected:
            raise InvalidRequest("the body is not complete") from None
        return inference.index(ready_only=asked.ready)

    async def load(model: str) -> None:
        """Not supported: the models are those of the configuration."""
        inference.find(model)
        raise InvalidRequest(
            "not supported: the models are loaded when the server starts, and stay"
        )

    for action in ("load", "unload"):
        api.post(f"/v2/repository/models/{{model}}/{action}")(load)


def add_unsupported_routes(api: FastAPI) -> None:
    """Add paths of other servers' extensions, which say that they are not supported."""
    for what, paths in _UNSUPPORTED.items():
        for path in paths:
            api.add_api_route(path, _refusing(what), methods=_METHODS, include_in_schema=False)


def _refusing(what: str) -> Any:
    async def refuse() -> None:
        raise InvalidRequest(f"not supported: {what}")

    return refuse
