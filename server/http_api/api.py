"""The HTTP API as an ASGI application: authentication, the infer route, and FastAPI for the rest.

Runs in the front-end. Every error has the protocol's shape: ``{"error": "text"}``. The
authenticator comes first, so a client without a key can't tell which models or paths there are.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Container
from concurrent.futures import Executor
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from server.errors import InternalFault, RequestError
from server.http_api.infer_route import InferRoute
from server.http_api.repository_routes import repository_router, rollout_router
from server.http_api.request_context import RequestContext
from server.http_api.responses import closing_connection, error_response, send_error
from server.http_api.routes import (
    add_model_routes,
    health_router,
    server_router,
    unsupported_router,
)
from server.inference.access_log import REQUEST_ID_HEADER, new_request_id
from server.inference.inference import Inference
from server.metrics.registry import MetricsRegistry
from server.security.authentication import Authenticator, Scope

__all__ = ["Application", "AuthMiddleware", "make_api", "scope_of"]

_log = logging.getLogger(__name__)
_OPEN = {"/v2/health/live", "/v2/health/ready"}
_READ: tuple[list[str], ...] = ([], ["ready"], ["config"])


class AuthMiddleware:
    """Authenticates requests to an ASGI application, and limits those of each client."""

    def __init__(
        self,
        application: ASGIApp,
        authenticator: Authenticator,
        infer_paths: Container[str] = (),
    ) -> None:
        self._application = application
        self._authenticator = authenticator
        self._infer_paths = infer_paths

    def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer one request."""
        if self._authenticator.is_enabled and scope["type"] == "http":
            return self._admit(scope, receive, send)
        return self._application(scope, receive, send)

    async def _admit(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        path, context = scope["path"], RequestContext(scope)
        try:
            client = self._authenticator.admit(
                Scope.INFER if path in self._infer_paths else scope_of(path),
                context.authorization,
                context.certificate_name,
                context.address,
            )
        except RequestError as error:
            await send_error(error, scope, receive, context.with_request_id(send))
            return
        try:
            await self._application(scope, receive, send)
        finally:
            self._authenticator.limiter.release(client)


def scope_of(path: str) -> Scope:
    """The scope that a path needs; paths that are not known here need the administrator's."""
    path = path.rstrip("/")
    if path in _OPEN:
        return Scope.PUBLIC
    if path == "/v2":
        return Scope.READ
    parts = path.split("/")  # ["", "v2", "models", name, ...]
    if parts[:3] != ["", "v2", "models"] or len(parts) < 4 or path == "/v2/models/stats":
        return Scope.ADMIN
    rest = parts[6:] if parts[4:5] == ["versions"] else parts[4:]
    if rest == ["infer"]:
        return Scope.INFER
    return Scope.READ if rest in _READ else Scope.ADMIN


class Application:
    """The whole ASGI application: infer requests by a look-up, the rest through FastAPI."""

    def __init__(self, inference: Inference, infer: InferRoute, api: FastAPI) -> None:
        self._inference = inference
        self._infer = infer
        self._infer_paths = infer.paths
        self._api = api

    def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer one request."""
        if self._inference.is_leaving:
            send = closing_connection(send)
        if scope["type"] == "http":
            if scope["path"] in self._infer_paths and scope["method"] == "POST":
                return self._infer(scope, receive, send)
            if scope["path"].endswith("/") and len(scope["path"]) > 1:
                return self({**scope, "path": scope["path"].rstrip("/") or "/"}, receive, send)
            if scope["method"] == "HEAD":  # the connection, which knows, leaves out the body
                scope = {**scope, "method": "GET"}
        return self._api(scope, receive, RequestContext(scope).with_request_id(send))


class _Api(FastAPI):
    """FastAPI, whose description has what can't be declared at the routes.

    Attributes:
        inference: has the models.
    """

    inference: Inference

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, with the models that are served now."""
        if self.openapi_schema is None:
            document = super().openapi()
            document["security"] = [{}, {"key": []}]  # a key, if the server has keys
            components = document["components"]
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for schema in ("HTTPValidationError", "ValidationError"):
                components["schemas"].pop(schema, None)
            for methods in document["paths"].values():
                for operation in methods.values():
                    operation["responses"].pop("422", None)
        document = self.openapi_schema or {}
        self._name_models(document["paths"])
        return document

    def _name_models(self, paths: dict[str, Any]) -> None:
        served = [endpoint.model.public for endpoint in self.inference.endpoints.values()]
        values = {
            "model": [*dict.fromkeys(name for name, _ in served)],
            "version": sorted({version for _, version in served}, key=int),
        }
        for path, methods in paths.items():
            if path.startswith("/v2/models/{model}"):
                for operation in methods.values():
                    for parameter in operation["parameters"]:
                        if parameter["in"] == "path":
                            parameter["schema"]["enum"] = values[parameter["name"]]


def make_api(
    inference: Inference, infer: InferRoute, metrics: MetricsRegistry, threads: Executor
) -> FastAPI:
    """Make the FastAPI application; `infer` answers requests to unknown models, too."""
    # No pages to try it out: FastAPI's load scripts from elsewhere, which is no place for keys.
    api = _Api(
        title="Ensembled",
        version=version("ensembled"),
        description="Ensembles of neural networks over the Open Inference Protocol, v2.",
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    api.inference = inference
    _add_error_handlers(api)
    api.include_router(health_router(inference))
    api.include_router(server_router(inference, metrics, threads))
    add_model_routes(api, inference, infer)
    api.include_router(repository_router(inference, infer.bodies, threads))
    api.include_router(rollout_router(inference, threads))
    api.include_router(unsupported_router())
    return api


def _add_error_handlers(api: FastAPI) -> None:
    async def respond(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        return error_response(error)

    async def respond_to_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = f"{error.detail}: {request.method} {request.url.path}"
        return JSONResponse({"error": text}, error.status_code, error.headers)

    async def respond_to_fault(request: Request, error: Exception) -> Response:
        request_id = RequestContext(request.scope).request_id or new_request_id()
        _log.error("a request failed", exc_info=error, extra={"request_id": request_id})
        response = error_response(InternalFault(request_id))
        response.headers[REQUEST_ID_HEADER] = request_id
        return response

    api.add_exception_handler(RequestError, respond)
    api.add_exception_handler(HTTPException, respond_to_http)
    api.add_exception_handler(Exception, respond_to_fault)
