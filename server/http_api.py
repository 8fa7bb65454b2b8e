"""The HTTP API beside the hot path: metadata, configuration and health, with FastAPI.

Runs in the front-end. Every error has the protocol's shape: ``{"error": "text"}``.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from server.errors import RequestError, UnknownModel
from server.front_end_spec import FrontEndSpec, ModelSpec
from server.gateway import Gateway
from server.infer_route import InferRoute, Receive, Scope, Send, error_response

__all__ = ["Application", "make_api"]

_log = logging.getLogger(__name__)
_VERSION = "1"
_EXTENSIONS = ["binary_tensor_data", "classification"]


class Application:
    """The whole ASGI application: the hot path by a look-up, the rest through FastAPI."""

    def __init__(self, infer: InferRoute, api: FastAPI) -> None:
        self._infer = infer
        self._hot = infer.paths
        self._api = api

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer one request."""
        if scope["type"] == "http" and scope["path"] in self._hot and scope["method"] == "POST":
            return self._infer(scope, receive, send)
        return self._api(scope, receive, send)


def make_api(spec: FrontEndSpec, gateway: Gateway, infer: InferRoute) -> FastAPI:
    """Make the FastAPI application.

    Args:
        spec: what this front-end serves.
        gateway: knows what is ready.
        infer: answers what does not name a model that is there, too.
    """
    models = {model.served.name: model for model in spec.models}
    api = FastAPI(title="Ensembled", version=version("ensembled"))
    _add_error_handlers(api)
    _add_server_routes(api, gateway, models)
    _add_model_routes(api, spec, gateway, models)
    for path in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"):
        api.router.routes.append(Route(path, infer, methods=["POST"]))
    return api


def _add_error_handlers(api: FastAPI) -> None:
    def known(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        status, body, headers = error_response(error)
        texts = {name.decode(): value.decode() for name, value in headers}
        return Response(body, status, texts, "application/json")

    def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        text = "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in error.errors())
        return JSONResponse({"error": text}, 400)

    def unexpected(_: Request, error: Exception) -> Response:
        _log.error("a request failed", exc_info=error)
        return JSONResponse({"error": "internal error, see the server's log"}, 500)

    api.add_exception_handler(RequestError, known)
    api.add_exception_handler(HTTPException, http)
    api.add_exception_handler(RequestValidationError, invalid)
    api.add_exception_handler(Exception, unexpected)


def _add_server_routes(api: FastAPI, gateway: Gateway, models: Mapping[str, ModelSpec]) -> None:
    @api.get("/v2")
    @api.get("/v2/", include_in_schema=False)
    async def server_metadata() -> dict[str, Any]:
        """The server's name, version and protocol extensions."""
        return {
            "name": "ensembled",
            "version": version("ensembled"),
            "extensions": _EXTENSIONS,
        }

    @api.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """Whether the front-end answers."""
        return {"live": True}

    @api.get("/v2/health/ready")
    async def ready() -> Response:
        """Whether the server takes traffic: started, not draining, some quorum can be met."""
        is_ready = gateway.is_open and any(
            gateway.can_answer(model.served) for model in models.values()
        )
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)


def _add_model_routes(
    api: FastAPI, spec: FrontEndSpec, gateway: Gateway, models: Mapping[str, ModelSpec]
) -> None:
    def find(model: str, version: str) -> ModelSpec:
        if model not in models:
            raise UnknownModel(model)
        if version != _VERSION:
            raise UnknownModel(model, version)
        return models[model]

    def get(path: str, endpoint: Any) -> None:
        api.get(f"/v2/models/{{model}}{path}")(endpoint)
        api.get(f"/v2/models/{{model}}/versions/{{version}}{path}", include_in_schema=False)(
            endpoint
        )

    async def metadata(model: str, version: str = _VERSION) -> dict[str, Any]:
        """A model's inputs and outputs; -1 is the batch."""
        return _metadata(find(model, version))

    async def ready(model: str, version: str = _VERSION) -> Response:
        """Whether the model can meet its quorum now."""
        is_ready = gateway.is_open and gateway.can_answer(find(model, version).served)
        return JSONResponse({"name": model, "ready": is_ready}, 200 if is_ready else 503)

    async def config(model: str, version: str = _VERSION) -> dict[str, Any]:
        """A model's configuration: members, rule, quorum, and where its members run."""
        return _config(find(model, version), spec)

    get("", metadata)
    get("/ready", ready)
    get("/config", config)


def _inputs(model: ModelSpec) -> list[tuple[str, str, list[int]]]:
    if model.takes_images:
        return [("image", "BYTES", [])]
    return [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in model.inputs]


def _metadata(model: ModelSpec) -> dict[str, Any]:
    output = model.served.spec.output
    return {
        "name": model.served.name,
        "versions": [_VERSION],
        "platform": "ensembled",
        "inputs": [
            {"name": name, "datatype": datatype, "shape": [-1, *shape]}
            for name, datatype, shape in _inputs(model)
        ],
        "outputs": [{"name": "output", "datatype": output.datatype, "shape": [-1, *output.shape]}],
    }


def _config(model: ModelSpec, spec: FrontEndSpec) -> dict[str, Any]:
    served = model.served
    output = served.spec.output
    return {
        "name": served.name,
        "platform": "ensembled",
        "backend": "ensembled",
        "max_batch_size": spec.memory.arenas[served.arena].capacity,
        "input": [
            {"name": name, "data_type": _triton_type(datatype), "dims": shape or [1]}
            for name, datatype, shape in _inputs(model)
        ],
        "output": [
            {
                "name": "output",
                "data_type": _triton_type(output.datatype),
                "dims": list(output.shape) or [1],
            }
        ],
        "ensemble": {
            "members": list(model.members),
            "rule": served.spec.rule,
            "quorum": served.spec.quorum,
            "deadline_ms": served.deadline_s * 1000,
        },
        "allocation": {
            device: {
                instance.source.member: instance.batch
                for instance in instances
                if instance.source.member in model.members
            }
            for device, instances in spec.instances.items()
        },
    }


def _triton_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
