"""What the server says of itself and its models, as gRPC's messages; everything but inference.

Runs in the front-end; nothing here waits. The documents are those of HTTP, so both protocols say
the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ensembled_client.wire.messages import message_class
from google.protobuf import json_format

from server.grpc_api.codec import parse
from server.inference.inference import Inference
from server.inference.metadata import model_metadata, server_metadata

__all__ = ["documents"]

Document = dict[str, Any]


def documents(inference: Inference) -> dict[str, Callable[[bytes], bytes]]:
    """By name of the method, from a serialized request to a serialized response.

    They raise RequestError if the request is malformed or its model unknown.
    """
    answers: dict[str, Callable[[Any], Document]] = {
        "ServerLive": lambda _: {"live": True},
        "ServerReady": lambda _: {"ready": inference.is_ready},
        "ModelReady": lambda asked: {
            "ready": inference.can_answer(inference.find(asked.name, asked.version))
        },
        "ServerMetadata": lambda _: server_metadata(),
        "ModelMetadata": lambda asked: model_metadata(
            inference.find(asked.name, asked.version).model
        ),
        "ModelConfig": lambda asked: {
            "config": _config(inference.config(inference.find(asked.name, asked.version)))
        },
        "ModelStatistics": lambda asked: inference.statistics(
            [inference.find(asked.name, asked.version)] if asked.name else None
        ),
        "RepositoryIndex": lambda asked: {"models": inference.index(ready_only=asked.ready)},
    }
    return {name: _serialized(name, answer) for name, answer in answers.items()}


def _serialized(name: str, answer: Callable[[Any], Document]) -> Callable[[bytes], bytes]:
    request_class, response_class = (
        message_class(f"{name}Request"),
        message_class(f"{name}Response"),
    )

    def method(data: bytes) -> bytes:
        document = answer(parse(request_class, data))
        response = json_format.ParseDict(document, response_class(), ignore_unknown_fields=True)
        serialized: bytes = response.SerializeToString()
        return serialized

    return method


def _config(config: Document) -> Document:
    """A model's configuration; what Triton's message has no field for becomes parameters."""
    ensemble = config["ensemble"]
    more = {
        "members": ",".join(ensemble["members"]),
        "rule": ensemble["rule"],
        "quorum": str(ensemble["quorum"]),
        "deadline_ms": f"{ensemble['deadline_ms']:g}",
        "extra_outputs": ",".join(output["name"] for output in ensemble["extra_outputs"]),
    }
    if "labels" in ensemble:
        more["labels"] = "\n".join(ensemble["labels"])
    parameters = {name: {"string_value": value} for name, value in more.items()}
    return {**config, "parameters": {**config["parameters"], **parameters}}
