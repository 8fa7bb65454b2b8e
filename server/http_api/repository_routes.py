"""The HTTP routes of the model repository: its index, and changes of what is served.

Runs in the front-end, with FastAPI. Triton's extension, and beside it a reload of the configuration
and roll-outs; `server.inference.repository` has the changes made.
"""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ValidationError

from server.control import ChangeResult
from server.errors import InvalidRequest
from server.http_api import schemas
from server.http_api.body import BodyReader, Disconnected
from server.http_api.routes import ADMISSION_ERRORS, error_responses
from server.inference.inference import Inference
from server.inference.repository import CONFIG

__all__ = ["repository_router", "rollout_router"]

_MAX_BODY_BYTES = 1 << 16
#: A multiple of four, which is as much as is decoded without giving way to other threads.
_PIECE_CHARS = 1 << 20

_Body = TypeVar("_Body", bound=BaseModel)


def repository_router(inference: Inference, bodies: BodyReader, threads: Executor) -> APIRouter:
    """The routes; `bodies` reads those that hold model files."""
    router = APIRouter(
        prefix="/v2/repository", responses=error_responses(400, 413, 415, *ADMISSION_ERRORS)
    )
    small = BodyReader(_MAX_BODY_BYTES, threads)
    name = Path(description="An ensemble, or a member by itself.")
    dry = Query(default=False, description="Whether to say only what would change.")
    repository = inference.repository

    @router.post(
        "/index",
        operation_id="list_models",
        response_model=list[schemas.IndexEntry],
        openapi_extra=_takes(schemas.IndexRequest),
    )
    async def index(request: Request) -> list[dict[str, Any]]:
        """All models with their state; ``{"ready": true}`` lists those that are ready."""
        async with _reading(small, request, schemas.IndexRequest) as body:
            return inference.index(ready_only=bool(body.ready))

    @router.post(
        "/reload",
        operation_id="reload",
        response_model=schemas.Change,
        responses=error_responses(409),
        openapi_extra=_takes(schemas.ReloadBody),
    )
    async def reload(request: Request) -> dict[str, Any]:
        """Read the configuration again, and serve what it says from now on."""
        async with _reading(small, request, schemas.ReloadBody) as body:
            return _change(await repository.reload(body.path, dry_run=body.dry_run))

    @router.post(
        "/placement",
        operation_id="place",
        response_model=schemas.Change,
        responses=error_responses(409),
        openapi_extra=_takes(schemas.PlacementBody),
    )
    async def place(request: Request, *, dry_run: bool = dry) -> dict[str, Any]:
        """Serve the same models by another allocation of members to devices."""
        async with _reading(small, request, schemas.PlacementBody) as body:
            return _change(await repository.place(body.model_dump_json(), dry_run=dry_run))

    @router.post(
        "/models/{model}/load",
        operation_id="load_model",
        response_model=schemas.Change,
        responses=error_responses(409),
        openapi_extra=_takes(schemas.LoadBody),
    )
    async def load(request: Request, model: str = name) -> dict[str, Any]:
        """Load a model, or load it again, perhaps by a configuration and files of the request."""
        repository.check_permitted()  # before a large body is read
        async with _reading(bodies, request, schemas.LoadBody, threads) as body:
            files = dict(body.parameters)
            config = files.pop(CONFIG, "")
            pieces = {key: _decoded(key, text) for key, text in files.items()}
            return _change(await repository.load(model, config, pieces))

    @router.post(
        "/models/{model}/unload",
        operation_id="unload_model",
        response_model=schemas.Change,
        responses=error_responses(409),
        openapi_extra=_takes(schemas.UnloadBody),
    )
    async def unload(request: Request, model: str = name) -> dict[str, Any]:
        """Unload a model: its requests in progress are answered, others find no such model."""
        async with _reading(small, request, schemas.UnloadBody) as body:
            dependents = body.parameters.unload_dependents
            return _change(await repository.unload(model, dependents=dependents))

    return router


def rollout_router(inference: Inference, threads: Executor) -> APIRouter:
    """The routes about the roll-out of a model."""
    router = APIRouter(
        prefix="/v2/models/{model}/rollout",
        responses=error_responses(400, 404, *ADMISSION_ERRORS),
    )
    small = BodyReader(_MAX_BODY_BYTES, threads)
    name = Path(description="An ensemble, or a member by itself.")

    @router.get("", operation_id="rollout", response_model=schemas.Rollout)
    async def describe(model: str = name) -> dict[str, Any]:
        """How a new version of a model does in comparison with the present one."""
        inference.find(model)
        return {"model": model, **inference.rollouts.find(model).describe()}

    @router.post(
        "",
        operation_id="change_rollout",
        response_model=schemas.Change,
        responses=error_responses(409, 413, 415),
        openapi_extra=_takes(schemas.RolloutBody),
    )
    async def change(request: Request, model: str = name) -> dict[str, Any]:
        """Promote the new version, roll it back, or change its share of the requests."""
        async with _reading(small, request, schemas.RolloutBody) as body:
            inference.find(model)
            inference.rollouts.find(model)
            percent = body.percent or 0.0
            return _change(await inference.repository.rollout(model, body.action, percent))

    return router


def _takes(body: type[BaseModel]) -> dict[str, Any]:
    """The description of a body."""
    return {"requestBody": {"content": {"application/json": {"schema": body.model_json_schema()}}}}


@asynccontextmanager
async def _reading(
    reader: BodyReader, request: Request, body: type[_Body], threads: Executor | None = None
) -> AsyncIterator[_Body]:
    """Read a JSON body, in `threads` if it may be large; an empty one is ``{}``.

    It counts as held memory until the block's end.
    """
    try:
        raw = await reader.read(dict(request.scope["headers"]), request.receive)
    except Disconnected:
        raise InvalidRequest("the body is not complete") from None
    try:
        loop = asyncio.get_running_loop()
        parse = partial(_parse, raw, body)
        yield parse() if threads is None else await loop.run_in_executor(threads, parse)
    finally:
        reader.release(raw)


def _parse(raw: bytes | bytearray, body: type[_Body]) -> _Body:
    try:
        text = b"{}" if raw.strip() in (b"", b"null") else raw
        return body.model_validate_json(text, strict=True)
    except ValidationError as error:
        problems = "; ".join(
            ": ".join(filter(None, (".".join(map(str, item["loc"])), item["msg"])))
            for item in error.errors(include_url=False)
        )
        raise InvalidRequest(f"the JSON of the request is not valid: {problems}") from None


def _decoded(name: str, text: str) -> Iterator[bytes]:
    """Decode base64 piece by piece."""
    padding = text.find("=")
    if 0 <= padding < len(text) - 2:
        raise InvalidRequest(f"{name} is not base64: there is something behind its end")
    for start in range(0, len(text), _PIECE_CHARS):
        try:
            yield binascii.a2b_base64(text[start : start + _PIECE_CHARS], strict_mode=True)
        except ValueError as error:
            raise InvalidRequest(f"{name} is not base64: {error}") from None


def _change(result: ChangeResult) -> dict[str, Any]:
    return {"generation": result.generation, "changes": list(result.changes)}
