"""Reading infer requests without holding the event loop up.

Runs in the front-end. Raw tensors are only sliced, which takes microseconds; typed ones are taken
element by element, which takes a thread if there are many.
"""

from __future__ import annotations

import asyncio

from server.grpc_api.codec import Asked, parse_request
from server.grpc_api.fields import take_apart
from server.requests import InferRequest

__all__ = ["make_request", "read_request"]

#: Of what is not raw tensors; a thread costs less than this much of it takes, some milliseconds.
_LARGE_BYTES = 1 << 18


async def read_request(data: bytes) -> Asked:
    """Read a serialized ModelInferRequest, but for its tensors.

    Raises:
        InvalidRequest: if it is malformed.
    """
    fields = take_apart(data)
    if len(fields.head) < _LARGE_BYTES:
        return parse_request(fields)
    return await asyncio.to_thread(parse_request, fields)


async def make_request(asked: Asked, timeout_s: float | None) -> InferRequest:
    """Make the tensors of a request, and all the rest that every protocol understands.

    Args:
        asked: the request as it came.
        timeout_s: how long the client waits, None for ever.

    Raises:
        InvalidRequest: if data, datatypes and shapes don't fit together.
    """
    if asked.head_bytes < _LARGE_BYTES:
        return asked.request(timeout_s)
    return await asyncio.to_thread(asked.request, timeout_s)
