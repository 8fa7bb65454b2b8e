"""The OpenAPI description of the HTTP API, written by hand: it is to say what is true.

Runs in the front-end; pure. FastAPI can't know what the infer route reads and answers, which
stands beside it, nor which errors there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from ensembled_client.wire import DTYPES, HEADER_LENGTH

from server.http_api.openapi_schemas import SCHEMAS

__all__ = ["describe_api"]

_MEANINGS = {
    400: "The request is malformed, or does not fit the model.",
    401: "An API key is needed.",
    403: "The API key lacks the scope.",
    404: "There is no such model or path.",
    413: "The body is larger than the limit.",
    415: "The Content-Encoding is not supported.",
    429: "Too many requests are waiting, or at work for this client.",
    500: "A member failed on this input, and without it there is no quorum.",
    503: "The server is starting or draining, or the quorum can't be met at present.",
    504: "The deadline passed before a quorum of members had answered.",
}
_INFER_ERRORS = (400, 404, 413, 415, 429, 500, 503, 504)
_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
_BINARY = {"type": "string", "format": "binary"}


def describe_api(models: Iterable[str]) -> dict[str, Any]:
    """Describe the API of a server with these models, as an OpenAPI 3.1 document."""
    model = {
        "name": "model",
        "in": "path",
        "required": True,
        "description": "An ensemble, or a member by itself.",
        "schema": {"type": "string", "enum": list(models)},
    }
    version_ = {**model, "name": "version", "description": "", "schema": {"const": "1"}}
    paths = _server_paths()
    for path, operation in _model_operations().items():
        paths[f"/v2/models/{{model}}{path}"] = {"parameters": [model], **_renamed(operation, "")}
        paths[f"/v2/models/{{model}}/versions/{{version}}{path}"] = {
            "parameters": [model, version_],
            **_renamed(operation, "_of_version"),
        }
    for action in ("load", "unload"):
        refused = _operation(f"{action}_model", "Not supported.", errors=(400, 404))
        paths[f"/v2/repository/models/{{model}}/{action}"] = {
            "parameters": [model],
            "post": refused,
        }
    for path, item in paths.items():
        if not path.startswith("/v2/health/"):
            for method in item.keys() & {"get", "post"}:
                item[method]["responses"] |= _errors(401, 403, 429)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ensembled",
            "version": version("ensembled"),
            "description": "Ensembles of neural networks over the Open Inference Protocol, v2.",
        },
        "security": [{}, {"key": []}],  # a key, if the server asks for keys
        "paths": paths,
        "components": {
            "schemas": {**SCHEMAS, "Datatype": _datatype()},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _datatype() -> dict[str, Any]:
    return {"type": "string", "enum": [*DTYPES, "BYTES"]}


def _server_paths() -> dict[str, Any]:
    index = _operation("list_models", "All models, with their state.", answer="RepositoryIndex")
    index["responses"] |= _errors(400, 413, 415)
    index["requestBody"] = {"content": _json("RepositoryIndexRequest")}
    return {
        "/v2": {"get": _operation("server_metadata", "The server.", answer="ServerMetadata")},
        "/v2/health/live": {
            "get": _operation("server_live", "Whether the front-end answers.", answer="Live")
        },
        "/v2/health/ready": {
            "get": _ready("server_ready", "Whether the server takes traffic.", "Ready")
        },
        "/v2/models/stats": {
            "get": _operation("statistics", "What all models have done.", answer="Statistics")
        },
        "/v2/repository/index": {"post": index},
        "/metrics": {"get": _metrics()},
    }


def _metrics() -> dict[str, Any]:
    operation = _operation("metrics", "What the server has done, for Prometheus.")
    text = {"schema": {"type": "string"}}
    content = {"text/plain": text, "application/openmetrics-text": text}
    operation["responses"]["200"] = {"description": "Metrics.", "content": content}
    return operation


def _model_operations() -> dict[str, dict[str, Any]]:
    return {
        "": {
            "get": _operation(
                "model_metadata",
                "A model's inputs and outputs.",
                answer="ModelMetadata",
                errors=(404,),
            )
        },
        "/ready": {
            "get": _ready("model_ready", "Whether the model can meet its quorum.", "ModelReady")
        },
        "/config": {
            "get": _operation(
                "model_config",
                "A model's members, rule and quorum, and where they run.",
                answer="ModelConfig",
                errors=(404,),
            )
        },
        "/stats": {
            "get": _operation(
                "model_statistics",
                "What a model has done.",
                answer="Statistics",
                errors=(404,),
            )
        },
        "/infer": {"post": _infer()},
    }


def _ready(name: str, summary: str, schema: str) -> dict[str, Any]:
    operation = _operation(name, summary, answer=schema, errors=(404,))
    operation["responses"]["503"] = {"description": "It is not.", "content": _json(schema)}
    return operation


def _infer() -> dict[str, Any]:
    operation = _operation("infer", "Predict some rows.", errors=_INFER_ERRORS)
    operation["description"] = (
        "The body is JSON; or JSON and raw little-endian tensors after it, whose sizes the JSON "
        f"tells (`binary_data_size`), with {HEADER_LENGTH}; or one encoded image. The answer "
        "is JSON, or JSON and raw tensors, as the request wants it."
    )
    length = {"type": "integer", "minimum": 0}
    operation["parameters"] = [
        {
            "name": "classification",
            "in": "query",
            "description": "With an image as the body: how many classes to name.",
            "schema": {"type": "integer", "minimum": 0, "maximum": 10**6},
        }
    ]
    operation["requestBody"] = {
        "required": True,
        "content": {
            **_json("InferRequest"),
            "application/octet-stream": {"schema": _BINARY},
            "image/*": {"schema": _BINARY},
        },
    }
    operation["responses"]["200"] = {
        "description": "The answer.",
        "headers": {
            HEADER_LENGTH: {
                "description": "Length of the JSON, if raw tensors follow it.",
                "schema": length,
            }
        },
        "content": {
            **_json("InferResponse"),
            "application/octet-stream": {"schema": _BINARY},
        },
    }
    return operation


def _operation(
    name: str, summary: str, *, answer: str = "", errors: tuple[int, ...] = ()
) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    if answer:
        responses["200"] = {"description": summary, "content": _json(answer)}
    return {"operationId": name, "summary": summary, "responses": responses | _errors(*errors)}


def _errors(*statuses: int) -> dict[str, Any]:
    errors: dict[str, Any] = {
        str(status): {"description": _MEANINGS[status], "content": _json("Error")}
        for status in statuses
    }
    if "429" in errors:
        errors["429"]["headers"] = _RETRY_AFTER
    return errors


def _renamed(methods: dict[str, Any], suffix: str) -> dict[str, Any]:
    """The same operations under other names, which must be unique."""
    return {
        method: {**operation, "operationId": operation["operationId"] + suffix}
        for method, operation in methods.items()
    }


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
