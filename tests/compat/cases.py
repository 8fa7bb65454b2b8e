"""Requests that every client sends alike: those to be refused, and calls that are not supported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["BAD", "BEYOND_GRPC_DEFAULT_ROWS", "SLOW_ROWS", "UNSUPPORTED", "Bad", "Call", "tiled"]

#: 5 MB, where gRPC libraries take 4 MiB unless told otherwise.
BEYOND_GRPC_DEFAULT_ROWS = 20_000
#: Tens of milliseconds of work; just under 1 MiB, beyond which aiohttp warns.
SLOW_ROWS = 4_000


def tiled(rows: np.ndarray, count: int) -> np.ndarray:
    """So many rows, by repeating those that there are."""
    return np.resize(rows, (count, *rows.shape[1:]))


@dataclass(frozen=True)
class Bad:
    """An infer request that must be refused.

    Attributes:
        what: is wrong with it.
        http, grpc: the status that must come, e.g. 400 and "INVALID_ARGUMENT".
        text: what the error must say, among others.
        model, version: whom it asks.
        name, array: its one input; its datatype is the array's.
        output: the output that it asks for.
        parameters: of the request.
    """

    what: str
    http: int
    grpc: str
    text: str
    model: str = "digits"
    version: str = ""
    name: str = "x"
    array: np.ndarray = field(default_factory=lambda: np.zeros((1, 64), np.float32))
    output: str = "output"
    parameters: dict[str, Any] | None = None

    def __str__(self) -> str:
        return self.what.replace(" ", "-")


def _invalid(what: str, text: str, **request: Any) -> Bad:
    return Bad(what, 400, "INVALID_ARGUMENT", text, **request)


BAD = (
    Bad(
        "unknown model",
        404,
        "NOT_FOUND",
        "Request for unknown model: 'nobody' is not found",
        model="nobody",
    ),
    Bad("unknown version", 404, "NOT_FOUND", "'digits' version 9 is not found", version="9"),
    _invalid("wrong input name", "pixels", name="pixels"),
    _invalid("wrong width", "64", array=np.zeros((1, 63), np.float32)),
    _invalid("wrong rank", "64", array=np.zeros(64, np.float32)),
    _invalid("wrong datatype", "FP32", array=np.zeros((1, 64), np.float64)),
    _invalid("no rows", "zero rows", array=np.zeros((0, 64), np.float32)),
    _invalid("unknown output", "logits", output="logits"),
    _invalid("unknown member", "nobody", parameters={"members": "mlp,nobody"}),
    _invalid("impossible quorum", "quorum", parameters={"quorum": -1}),
)


@dataclass(frozen=True)
class Call:
    """A call of tritonclient that the server does not support."""

    method: str
    arguments: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return self.method


UNSUPPORTED = (
    Call("get_trace_settings"),
    Call("update_trace_settings", (None, {"trace_level": ["TIMESTAMPS"]})),
    Call("get_log_settings"),
    Call("update_log_settings", ({"log_verbose_level": 1},)),
    Call("get_system_shared_memory_status"),
    Call("register_system_shared_memory", ("region", "/key", 256)),
    Call("unregister_system_shared_memory", ("region",)),
    Call("get_cuda_shared_memory_status"),
    Call("register_cuda_shared_memory", ("region", b"aGFuZGxl", 0, 256)),
    Call("unregister_cuda_shared_memory", ("region",)),
)
