"""The HTTP routes beside inference: metadata, configuration, health, statistics and metrics.

Runs in the front-end, with FastAPI, which also describes the infer route for ``/openapi.json``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any

from ensembled_client.wire import BINARY_CONTENT_TYPE, HEADER_LENGTH
from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute

from server.errors import InvalidRequest
from server.http_api import schemas
from server.http_api.infer_route import InferRoute
from server.http_api.responses import compress_response
from server.inference.endpoint import Endpoint
from server.inference.inference import Inference
from server.inference.metadata import server_metadata
from server.metrics.registry import MetricsRegistry

__all__ = [
    "ADMISSION_ERRORS",
    "add_model_routes",
    "error_responses",
    "health_router",
    "server_router",
    "unsupported_router",
]

_ERRORS = {
    400: "The request is malformed, or does not fit the model.",
    401: "An API key is needed.",
    403: "The API key lacks the scope, or the server's configuration does not permit it.",
    404: "There is no such model or path.",
    409: "The change did not succeed; what was served before still is.",
    413: "The body is larger than the limit.",
    415: "The Content-Encoding is not supported.",
    429: "Too many requests are waiting, or in flight for this client.",
    500: "A member failed on this input, and without it there is no quorum.",
    503: "The server is starting or draining, or the quorum can't be met at present.",
    504: "The deadline passed before a quorum of members had answered.",
}
#: What any request to a route that needs a key can end with.
ADMISSION_ERRORS = (401, 403, 429)
_INFER_ERRORS = (400, 404, 413, 415, 429, 500, 503, 504)
_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
_BINARY_SCHEMA = {"schema": {"type": "string", "format": "binary"}}

_UNSUPPORTED = {
    "shared memory": ("/v2/systemsharedmemory/{rest:path}", "/v2/cudasharedmemory/{rest:path}"),
    "tracing": ("/v2/trace/setting", "/v2/models/{model}/trace/setting"),
    "changing the log": ("/v2/logging",),
    "generating text": ("/v2/models/{model}/generate", "/v2/models/{model}/generate_stream"),
}

Responses = dict[int | str, dict[str, Any]]


def error_responses(*statuses: int) -> Responses:
    """The descriptions of errors, by status."""
    errors: Responses = {
        status: {"model": schemas.ErrorBody, "description": _ERRORS[status]} for status in statuses
    }
    if 429 in errors:
        errors[429]["headers"] = _RETRY_AFTER
    return errors


def _unready(schema: type) -> Responses:
    return {503: {"model": schema, "description": "It is not ready."}}


def _readiness(is_ready: bool, **more: str) -> JSONResponse:
    return JSONResponse({**more, "ready": is_ready}, 200 if is_ready else 503)


def health_router(inference: Inference) -> APIRouter:
    """The routes that need no key."""
    router = APIRouter(prefix="/v2/health")

    @router.get("/live", operation_id="server_live", response_model=schemas.Liveness)
    async def live() -> dict[str, bool]:
        """Whether the front-end answers."""
        return {"live": True}

    @router.get(
        "/ready",
        operation_id="server_ready",
        response_model=schemas.Readiness,
        responses=_unready(schemas.Readiness),
    )
    async def ready() -> Response:
        """Whether the server accepts traffic: started, not draining, some quorum can be met."""
        return _readiness(inference.is_ready)

    return router


def server_router(inference: Inference, metrics: MetricsRegistry, threads: Executor) -> APIRouter:
    """The routes about the whole server; large responses are compressed in `threads`."""
    router = APIRouter(responses=error_responses(*ADMISSION_ERRORS))

    @router.get("/v2", operation_id="server_metadata", response_model=schemas.ServerMetadata)
    async def metadata() -> dict[str, Any]:
        """The server's name, version and protocol extensions."""
        return server_metadata()

    @router.get(
        "/v2/models/stats",
        operation_id="statistics",
        response_model=schemas.Statistics,
        response_model_exclude_unset=True,
    )
    async def statistics() -> dict[str, Any]:
        """What every model has done, and how long it took."""
        return inference.statistics()

    text = {"schema": {"type": "string"}}
    content = {"text/plain": text, "application/openmetrics-text": text}

    @router.get(
        "/metrics",
        operation_id="metrics",
        response_class=Response,
        responses={200: {"content": content}},
    )
    async def scrape(request: Request) -> Response:
        """What the server has done and how it performs, for Prometheus."""
        body, content_type = await metrics.scrape(request.headers.get("accept", ""))
        response = Response(body, headers={"content-type": content_type})
        accept = dict(request.scope["headers"]).get(b"accept-encoding")
        await compress_response(response, accept, threads)
        return response

    return router


def add_model_routes(api: FastAPI, inference: Inference, infer: InferRoute) -> None:
    """Add the routes about one model, by its name alone, and by name and version."""
    name = Path(description="An ensemble, or a member by itself.")

    async def find(model: str = name) -> Endpoint:
        return inference.find(model)

    async def find_version(version: str, model: str = name) -> Endpoint:
        return inference.find(model, version)

    for prefix, suffix, dependency in (
        ("/v2/models/{model}", "", find),
        ("/v2/models/{model}/versions/{version}", "_of_version", find_version),
    ):
        api.include_router(_model_router(inference, prefix, suffix, Depends(dependency)))
        api.router.routes.append(_infer_route(infer, prefix, suffix, dependency))


def _model_router(inference: Inference, prefix: str, suffix: str, found: Any) -> APIRouter:
    router = APIRouter(prefix=prefix, responses=error_responses(404, *ADMISSION_ERRORS))

    @router.get("", operation_id=f"model_metadata{suffix}", response_model=schemas.ModelMetadata)
    async def metadata(endpoint: Endpoint = found) -> dict[str, Any]:
        """A model's inputs and outputs; -1 is the batch."""
        return inference.metadata(endpoint)

    @router.get(
        "/ready",
        operation_id=f"model_ready{suffix}",
        response_model=schemas.ModelReadiness,
        responses=_unready(schemas.ModelReadiness),
    )
    async def ready(endpoint: Endpoint = found) -> Response:
        """Whether the model can meet its quorum now."""
        return _readiness(inference.can_answer(endpoint), name=endpoint.model.name)

    @router.get(
        "/config",
        operation_id=f"model_config{suffix}",
        response_model=schemas.ModelConfig,
        response_model_exclude_unset=True,
    )
    async def config(endpoint: Endpoint = found) -> dict[str, Any]:
        """A model's configuration: members, rule, quorum, and where its members run."""
        return inference.config(endpoint)

    @router.get(
        "/stats",
        operation_id=f"model_statistics{suffix}",
        response_model=schemas.Statistics,
        response_model_exclude_unset=True,
    )
    async def statistics(endpoint: Endpoint = found) -> dict[str, Any]:
        """What the model has done, and how long it took."""
        return inference.statistics([endpoint])

    return router


def _infer_route(
    infer: InferRoute, prefix: str, suffix: str, find: Callable[..., Awaitable[Endpoint]]
) -> APIRoute:
    """Describes the infer route; its requests go there without passing FastAPI."""
    classes = Query(
        0, ge=0, le=10**6, description="With an image as the body: how many classes to name."
    )
    names = Query(
        "", description="With an image as the body: the members to ask, A,B; all if absent."
    )

    async def describe(
        request: schemas.InferRequestBody, classification: int = classes, members: str = names
    ) -> None:
        raise NotImplementedError

    length = {
        "description": "Length of the JSON, if raw tensors follow it.",
        "schema": {"type": "integer", "minimum": 0},
    }
    success = {
        "description": "The answer.",
        "headers": {HEADER_LENGTH: length},
        "content": {BINARY_CONTENT_TYPE: _BINARY_SCHEMA},
    }
    body = {"content": {BINARY_CONTENT_TYPE: _BINARY_SCHEMA, "image/*": _BINARY_SCHEMA}}
    route = APIRoute(
        f"{prefix}/infer",
        describe,
        methods=["POST"],
        operation_id=f"infer{suffix}",
        summary="Predict some rows.",
        description=(
            "The body is JSON; or JSON and raw little-endian tensors after it, whose sizes the "
            f"JSON gives (`binary_data_size`), with {HEADER_LENGTH}; or one encoded image. The "
            "answer is JSON, or JSON and raw tensors, as the request wants it."
        ),
        dependencies=[Depends(find)],
        response_model=schemas.InferResponseBody,
        responses={200: success, **error_responses(*_INFER_ERRORS, 401, 403)},
        openapi_extra={"requestBody": body},
    )
    route.app = infer
    return route


def unsupported_router() -> APIRouter:
    """Paths of other servers' extensions, which say that they are not supported."""
    router = APIRouter(include_in_schema=False)
    for feature, paths in _UNSUPPORTED.items():
        for path in paths:
            router.add_api_route(path, _refuse(feature), methods=["GET", "POST"])
    return router


def _refuse(feature: str) -> Callable[[], Awaitable[None]]:
    async def refuse() -> None:
        raise InvalidRequest(f"not supported: {feature}")

    return refuse
