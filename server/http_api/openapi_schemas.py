"""JSON Schemas of the documents that the HTTP API reads and writes, for `server.http_api.openapi`.

Used in the front-end. What is left open here is checked by the server all the same.
"""

from __future__ import annotations

from typing import Any

__all__ = ["SCHEMAS"]

_Schema = dict[str, Any]

_TEXT: _Schema = {"type": "string"}
_TRUTH: _Schema = {"type": "boolean"}
_COUNT: _Schema = {"type": "integer", "minimum": 0}
_ANYTHING: _Schema = {"type": "object"}


def _ref(name: str) -> _Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(items: _Schema) -> _Schema:
    return {"type": "array", "items": items}


def _object(required: dict[str, _Schema], optional: dict[str, _Schema] | None = None) -> _Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
    }


_SHAPE = _list(_COUNT)
_DURATION = _object({"count": _COUNT, "ns": _COUNT})
_TENSOR_METADATA = _object(
    {"name": _TEXT, "datatype": _ref("Datatype"), "shape": _list({"type": "integer"})}
)
_STAGES = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)

_REQUEST_PARAMETERS: _Schema = {
    "type": "object",
    "description": "Others are passed over.",
    "properties": {
        "timeout": {
            "type": "integer",
            "minimum": 0,
            "maximum": 10**15,
            "description": "The deadline in microseconds, 0 for none.",
        },
        "members": {
            "type": "string",
            "description": "Names of the members to ask, separated by commas; all by default.",
        },
        "quorum": {
            "type": "integer",
            "minimum": 0,
            "maximum": 64,
            "description": "The fewest members the answer may rest on, 0 for the model's own.",
        },
        "binary_data_output": {**_TRUTH, "description": "Whether outputs are raw by default."},
    },
}
_OUTPUT_PARAMETERS: _Schema = {
    "type": "object",
    "properties": {
        "binary_data": {**_TRUTH, "description": "Whether this output is raw."},
        "classification": {**_COUNT, "description": "How many of the best classes to name."},
    },
}
_INPUT = _object(
    {"name": _TEXT, "shape": _list({"type": "integer"}), "datatype": _TEXT},
    {
        "parameters": {
            "type": "object",
            "properties": {
                "binary_data_size": {
                    "type": ["integer", "null"],
                    "description": "Bytes of this input after the JSON, instead of data.",
                }
            },
        },
        "data": {"description": "Nested or flat, row-major; BYTES are texts, BF16 can't be here."},
    },
)
_OUTPUT = _object(
    {"name": _TEXT, "datatype": _ref("Datatype"), "shape": _SHAPE},
    {
        "parameters": _object({"binary_data_size": _COUNT}),
        "data": _list({"type": ["number", "boolean", "string", "null"]}),
    },
)

SCHEMAS: dict[str, _Schema] = {
    "Error": _object({"error": _TEXT}),
    "Live": _object({"live": _TRUTH}),
    "Ready": _object({"ready": _TRUTH}),
    "ModelReady": _object({"ready": _TRUTH}, {"name": _TEXT}),
    "ServerMetadata": _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
    "ModelMetadata": _object(
        {
            "name": _TEXT,
            "versions": _list(_TEXT),
            "platform": _TEXT,
            "inputs": _list(_TENSOR_METADATA),
            "outputs": _list(_TENSOR_METADATA),
        }
    ),
    "ModelConfig": _object(
        {
            "name": _TEXT,
            "platform": _TEXT,
            "backend": _TEXT,
            "max_batch_size": _COUNT,
            "input": _list(_object({"name": _TEXT, "data_type": _TEXT, "dims": _SHAPE})),
            "output": _list(_object({"name": _TEXT, "data_type": _TEXT, "dims": _SHAPE})),
            "parameters": {
                "type": "object",
                "additionalProperties": _object({"string_value": _TEXT}),
            },
            "allocation": {
                "type": "object",
                "description": "By device, the members that run there and their batch sizes.",
                "additionalProperties": {"type": "object", "additionalProperties": _COUNT},
            },
            "ensemble": _object(
                {
                    "members": _list(_TEXT),
                    "rule": _TEXT,
                    "quorum": _COUNT,
                    "deadline_ms": {"type": "number"},
                    "extra_outputs": _list(_TENSOR_METADATA),
                },
                {"labels": _list(_TEXT)},
            ),
        }
    ),
    "Statistics": _object(
        {
            "model_stats": _list(
                _object(
                    {
                        "name": _TEXT,
                        "version": _TEXT,
                        "last_inference": _COUNT,
                        "inference_count": _COUNT,
                        "execution_count": _COUNT,
                        "inference_stats": _object(dict.fromkeys(_STAGES, _DURATION)),
                        "batch_stats": _list(_ANYTHING),
                    }
                )
            )
        }
    ),
    "RepositoryIndexRequest": _object({}, {"ready": _TRUTH}),
    "RepositoryIndex": _list(
        _object(
            {
                "name": _TEXT,
                "version": _TEXT,
                "state": {"enum": ["READY", "UNAVAILABLE"]},
                "reason": _TEXT,
            }
        )
    ),
    "InferRequest": _object(
        {"inputs": _list(_INPUT)},
        {
            "id": _TEXT,
            "parameters": _REQUEST_PARAMETERS,
            "outputs": {
                "type": ["array", "null"],
                "description": "The combined output by default.",
                "items": _object({"name": _TEXT}, {"parameters": _OUTPUT_PARAMETERS}),
            },
        },
    ),
    "InferResponse": _object(
        {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "parameters": _object(
                {
                    "members": {
                        "type": "string",
                        "description": "The members that the answer rests on.",
                    },
                    "degraded": {
                        "type": "boolean",
                        "description": "Whether these are fewer than were asked.",
                    },
                }
            ),
            "outputs": _list(_OUTPUT),
        },
        {"id": _TEXT},
    ),
}
