"""Reading infer requests without holding the event loop up.

Runs in the front-end. Raw tensors are only sliced, which takes microseconds; typed ones are taken
element by element, which takes a thread if there are many.
"""

from __future__ import annotations

import asyncio

from server.errors import InvalidRequest
from server.grpc_api.codec import Asked, parse_request
from server.grpc_api.fields import Fields, refuse_many_parts, take_apart
from server.inference.requests import InferRequest

__all__ = ["make_request", "read_request"]

#: Of what is not raw tensors; a thread costs less than this much of it takes, some milliseconds.
_LARGE_BYTES = 1 << 18
#: The parser holds the interpreter lock, in a thread, too: at worst a tenth of a second for this.
_LARGEST_BYTES = 1 << 23


async def read_request(data: bytes) -> Asked:
    """Read a serialized ModelInferRequest, but for its tensors.

    Raises:
        InvalidRequest: if it is malformed.
    """
    fields = take_apart(data)
    if len(fields.head) < _LARGE_BYTES:
        return parse_request(fields)
    if len(fields.head) > _LARGEST_BYTES:
        raise InvalidRequest(
            f"the request has {len(fields.head)} bytes besides raw_input_contents, at most "
            f"{_LARGEST_BYTES} are read: send big tensors there"
        )
    return await asyncio.to_thread(_parse_large, fields)


def _parse_large(fields: Fields) -> Asked:
    refuse_many_parts(fields.head)
    return parse_request(fields)


async def make_request(asked: Asked) -> InferRequest:
    """Make the tensors of a request, and all the rest that every protocol understands.

    Raises:
        InvalidRequest: if data, datatypes and shapes don't fit together.
    """
    if asked.head_bytes < _LARGE_BYTES:
        return asked.request()
    return await asyncio.to_thread(asked.request)
