"""The HTTP API beside the hot path: metadata, configuration and health, with FastAPI.

Runs in the front-end. Every error has the protocol's shape: ``{"error": "text"}``.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from concurrent.futures import Executor
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from server.errors import InternalFault, RequestError
from server.http_api import asker
from server.http_api.answers import Scope, Send, error_answer, parting
from server.http_api.body import Receive
from server.http_api.infer_route import InferRoute
from server.http_api.metrics_route import add_metrics_route
from server.http_api.openapi import describe_api
from server.http_api.repository import add_repository_routes, add_unsupported_routes
from server.inference.access_log import REQUEST_ID_HEADER, new_request_id
from server.inference.inference import Inference
from server.inference.metadata import model_metadata, server_metadata
from server.metrics.registry import MetricsRegistry

__all__ = ["Application", "make_api"]

_log = logging.getLogger(__name__)


class Application:
    """The whole ASGI application: the hot path by a look-up, the rest through FastAPI."""

    def __init__(self, inference: Inference, infer: InferRoute, api: FastAPI) -> None:
        self._inference = inference
        self._infer = infer
        self._hot = infer.paths
        self._api = api

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer one request."""
        if self._inference.is_leaving:
            send = parting(send)
        if scope["type"] == "http":
            if scope["path"] in self._hot and scope["method"] == "POST":
                return self._infer(scope, receive, send)
            if scope["path"].endswith("/") and len(scope["path"]) > 1:
                return self({**scope, "path": scope["path"].rstrip("/") or "/"}, receive, send)
            if scope["method"] == "HEAD":  # uvicorn, which knows, leaves out the body
                scope = {**scope, "method": "GET"}
        return self._api(scope, receive, asker.echoing(scope, send))


def make_api(
    inference: Inference, infer: InferRoute, metrics: MetricsRegistry, threads: Executor
) -> FastAPI:
    """Make the FastAPI application.

    Args:
        inference: knows the models, and what is ready.
        infer: answers what does not name a model that is there, too.
        metrics: for Prometheus.
        threads: where long work is done.
    """
    document = describe_api(inference.endpoints)
    # No pages to try it out: FastAPI's load scripts from elsewhere, which is no place for keys.
    api = FastAPI(redirect_slashes=False, docs_url=None, redoc_url=None)
    api.openapi = lambda: document  # type: ignore[method-assign]
    _add_error_handlers(api)
    _add_server_routes(api, inference)
    _add_model_routes(api, inference)
    add_repository_routes(api, inference, threads)
    add_unsupported_routes(api)
    add_metrics_route(api, metrics, threads)
    for path in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"):
        api.router.routes.append(Route(path, infer, methods=["POST"]))
    return api


def _add_error_handlers(api: FastAPI) -> None:
    async def known(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        answer = error_answer(error)
        headers = {name.decode(): value.decode() for name, value in answer.headers}
        return Response(answer.body, answer.status, headers)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = f"{error.detail}: {request.method} {request.url.path}"
        return JSONResponse({"error": text}, error.status_code, error.headers)

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        text = "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in error.errors())
        return JSONResponse({"error": text}, 400)

    async def unexpected(request: Request, error: Exception) -> Response:
        named = asker.request_id(request.scope) or new_request_id()
        _log.error("a request failed", exc_info=error, extra={"request_id": named})
        response = await known(request, InternalFault(named))
        response.headers[REQUEST_ID_HEADER] = named
        return response

    api.add_exception_handler(RequestError, known)
    api.add_exception_handler(HTTPException, http)
    api.add_exception_handler(RequestValidationError, invalid)
    api.add_exception_handler(Exception, unexpected)


def _add_server_routes(api: FastAPI, inference: Inference) -> None:
    @api.get("/v2")
    async def metadata() -> dict[str, Any]:
        """The server's name, version and protocol extensions."""
        return server_metadata()

    @api.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """Whether the front-end answers."""
        return {"live": True}

    @api.get("/v2/health/ready")
    async def ready() -> Response:
        """Whether the server takes traffic: started, not draining, some quorum can be met."""
        is_ready = inference.is_ready
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @api.get("/v2/models/stats")
    async def statistics() -> dict[str, Any]:
        """What every model has done, and how long it took."""
        return inference.statistics()


def _add_model_routes(api: FastAPI, inference: Inference) -> None:
    def get(path: str, endpoint: Any) -> None:
        api.get(f"/v2/models/{{model}}{path}")(endpoint)
        api.get(f"/v2/models/{{model}}/versions/{{version}}{path}", include_in_schema=False)(
            endpoint
        )

    async def metadata(model: str, version: str = "") -> dict[str, Any]:
        """A model's inputs and outputs; -1 is the batch."""
        return model_metadata(inference.find(model, version).model)

    async def ready(model: str, version: str = "") -> Response:
        """Whether the model can meet its quorum now."""
        is_ready = inference.can_answer(inference.find(model, version))
        return JSONResponse({"name": model, "ready": is_ready}, 200 if is_ready else 503)

    async def config(model: str, version: str = "") -> dict[str, Any]:
        """A model's configuration: members, rule, quorum, and where its members run."""
        return inference.config(inference.find(model, version))

    async def statistics(model: str, version: str = "") -> dict[str, Any]:
        """What the model has done, and how long it took."""
        return inference.statistics([inference.find(model, version)])

    get("", metadata)
    get("/ready", ready)
    get("/config", config)
    get("/stats", statistics)
