"""Plans: what is known of a request that comes again, except for its tensors' bytes.

Used in the front-end, on the hot path of both protocols. Each protocol recognizes a message by what
surrounds its tensors; the plan says where these are, and remembers how responses begin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from server.engine.request import Answer, PreparedRequest, StoredInput
from server.inference.endpoint import Endpoint
from server.inference.requests import BoundRequest

__all__ = ["RequestPlan", "slice_inputs"]

InputSlices = tuple[tuple[int, int, int], ...]


class RequestPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A request except for its tensors.

    `rows` are those of every input; `slices` are per input its view of the arena, and start and
    stop in the message. `heads` are of responses that end with the combined values, without these;
    by the members used and whether degraded.
    """

    endpoint: Endpoint
    prepared: PreparedRequest
    rows: int
    slices: InputSlices
    heads: dict[tuple[int, bool], bytes] = {}

    def inputs(self, message: bytes | bytearray | memoryview, begin: int = 0) -> list[StoredInput]:
        """The inputs in a message that begins at `begin`, without a copy."""
        data = memoryview(message)
        return [(view, data[begin + start : begin + stop]) for view, start, stop in self.slices]

    def bind(self, message: bytes | bytearray) -> BoundRequest:
        """The request that such a message makes."""
        return BoundRequest(self.prepared, self.inputs(message), self.rows)

    def head(self, answer: Answer, encode: Callable[[Answer], bytes]) -> bytes:
        """How a response begins; `encode` makes a whole one, which ends with the values."""
        key = answer.used, answer.degraded
        head = self.heads.get(key)
        if head is None:
            whole = encode(answer)
            head = self.heads[key] = whole[: len(whole) - len(answer.values)]
        return head


def slice_inputs(
    endpoint: Endpoint, bound: BoundRequest, spans: Iterable[tuple[str, int, int]]
) -> InputSlices:
    """The slices of a plan, from each tensor's name and its start and stop in the message.

    A tensor that the request's members don't need has none.
    """
    views = {one.tensor.name: one.views[0].view for one in endpoint.model.inputs}
    stored = {view for view, _ in bound.inputs}
    return tuple(
        [(views[name], start, stop) for name, start, stop in spans if views[name] in stored]
    )
