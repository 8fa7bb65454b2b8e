"""What to do with a body whose JSON header has been seen before: no parsing, only slicing.

Runs in the front-end. A client that sends the same kind of request again sends the same header,
byte for byte; all that its tensors' names, types, shapes and sizes say is then known already.
"""

from __future__ import annotations

import msgspec
import numpy as np

from server.gateway.accepted import Bound, StoredInput, Wish
from server.http_api.recent import Recent
from server.inference.requests import InferRequest, WantedOutput

__all__ = ["Plan", "PlanCache"]

_PLANS = 512  # of a generation
_MAX_HEADER_BYTES = 4096


class _Slice(msgspec.Struct, frozen=True):
    view: int
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    count: int
    start: int


class Plan(msgspec.Struct, frozen=True):
    """A request but for its payload.

    Attributes:
        body_bytes: the length of the whole body.
        rows: of every input.
        slices: where in the body which view's rows are.
        outputs: how the answer is wanted.
        wish: what the gateway is to know.
    """

    body_bytes: int
    rows: int
    slices: tuple[_Slice, ...]
    outputs: tuple[WantedOutput, ...]
    wish: Wish

    def bind(self, body: bytes | bytearray) -> Bound:
        """What a body of `body_bytes` asks, without a copy."""
        inputs: list[StoredInput] = [
            (
                item.view,
                np.frombuffer(body, item.dtype, item.count, item.start).reshape(item.shape),
            )
            for item in self.slices
        ]
        return Bound(inputs, self.rows, self.wish)


class PlanCache:
    """The plans of one model, by header: those in use; bounded."""

    def __init__(self) -> None:
        self._plans: Recent[bytes, Plan] = Recent(_PLANS)

    def find(self, body: bytes | bytearray, header_length: int) -> Plan | None:
        """The plan of a body, if its header was seen lately."""
        if header_length > _MAX_HEADER_BYTES:  # to hash a long one would take longer than it saves
            return None
        plan = self._plans.get(bytes(body[:header_length]))
        return plan if plan is not None and plan.body_bytes == len(body) else None

    def remember(
        self,
        body: bytes | bytearray,
        header_length: int,
        request: InferRequest,
        bound: Bound,
    ) -> None:
        """Make a plan of a request that was parsed and bound.

        Not if the client gave it an id, which makes its header unlike any other, nor if a tensor
        is in the header itself.
        """
        if request.id or header_length > _MAX_HEADER_BYTES:
            return
        views = {id(array): view for view, array in bound.inputs}
        slices: list[_Slice] = []
        start = header_length
        for tensor in request.tensors:
            array = tensor.array
            assert array is not None, "a bound tensor is one"
            slices.append(_Slice(views[id(array)], array.dtype, array.shape, array.size, start))
            start += array.nbytes
        if start == len(body):
            plan = Plan(len(body), bound.rows, tuple(slices), request.outputs, bound.wish)
            self._plans.put(bytes(body[:header_length]), plan)
