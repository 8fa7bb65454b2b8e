"""The gRPC methods that load and unload models, as Triton's clients and KServe's call them.

Runs in the front-end's event loop. A message flows in, `server.inference.repository` has the change
made, and its outcome flows out. KServe's messages have the model's name in the field that is the
repository's name in Triton's, which nobody else uses, and want to hear it in the response.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ensembled_client.wire.messages import message_class, parameter_values

from server.errors import InvalidRequest
from server.grpc_api.calls import UnaryCall
from server.grpc_api.codec import parse
from server.inference.inference import Inference
from server.inference.repository import CONFIG, UNLOAD_DEPENDENTS

__all__ = ["change_handlers"]

_Handler = Callable[[UnaryCall, bytes], None]


def change_handlers(inference: Inference) -> dict[str, _Handler]:
    """The handlers by method."""

    async def load(request: Any) -> dict[str, Any]:
        model = _model(request)
        inference.repository.check_permitted()
        parameters = parameter_values(request.parameters)
        config = _typed(parameters, CONFIG, str, "string_param") or ""
        files = {
            name: (_typed(parameters, name, bytes, "bytes_param"),)
            for name in request.parameters
            if name != CONFIG
        }
        await inference.repository.load(model, config, files)
        return {"model_name": model, "isLoaded": True}

    async def unload(request: Any) -> dict[str, Any]:
        model = _model(request)
        parameters = parameter_values(request.parameters)
        dependents = _typed(parameters, UNLOAD_DEPENDENTS, bool, "bool_param") or False
        if unknown := [name for name in request.parameters if name != UNLOAD_DEPENDENTS]:
            raise InvalidRequest(
                f"unknown parameter {unknown[0]!r}: an unload takes {UNLOAD_DEPENDENTS}"
            )
        await inference.repository.unload(model, dependents=dependents)
        return {"model_name": model, "isUnloaded": True}

    return {
        "RepositoryModelLoad": _handler("RepositoryModelLoad", load),
        "RepositoryModelUnload": _handler("RepositoryModelUnload", unload),
    }


def _model(request: Any) -> str:
    model: str = request.model_name or request.repository_name
    return model


def _typed(parameters: dict[str, Any], name: str, kind: type[Any], field: str) -> Any:
    """The value of a parameter, None if it is not there; it is in a certain field."""
    value = parameters.get(name)
    if value is not None and not isinstance(value, kind):
        raise InvalidRequest(f"parameter {name!r} should be a {field}")
    return value


def _handler(name: str, change: Callable[[Any], Awaitable[dict[str, Any]]]) -> _Handler:
    request_class = message_class(f"{name}Request")
    response_class = message_class(f"{name}Response")

    async def run(unary: UnaryCall, request: Any) -> None:
        try:
            response = response_class(**await change(request))
        except Exception as error:
            unary.fail(error)
        else:
            unary.succeed(response.SerializeToString())

    def handle(unary: UnaryCall, message: bytes) -> None:
        request = parse(request_class, message)
        task = asyncio.get_running_loop().create_task(run(unary, request))
        task.add_done_callback(lambda _: unary.release())  # even if it is cancelled at once
        unary.on_cancelled = unary.release  # the change goes on

    return handle
