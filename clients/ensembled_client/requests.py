"""Infer calls: tensors, outputs and parameters; split where they are too large. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import TypedDict

import numpy as np

from ensembled_client.errors import RequestRejected, RequestTooLarge, ServerFailure
from ensembled_client.wire import InferResponse, RawTensor

__all__ = [
    "CLASS",
    "OUTPUT",
    "CallOptions",
    "InferCall",
    "PredictOptions",
    "RequestTensor",
    "join_responses",
    "split_call",
]

#: The name of the combined output, and that of each row's best class.
OUTPUT, CLASS = "output", "class"


class PredictOptions(TypedDict, total=False):
    """The options of `EnsembleClient.predict`."""

    timeout: float | None
    members: Sequence[str] | None
    quorum: int | None
    uncertainty: bool | Sequence[str]
    member_outputs: bool
    max_rows: int | None
    outputs: Sequence[str]
    coverage: float | None
    quantiles: Sequence[float] | None
    version: str


@dataclass(frozen=True)
class CallOptions:
    """What a caller wants beside the combined output; see `EnsembleClient.predict`."""

    timeout: float | None = None
    members: Sequence[str] | None = None
    quorum: int | None = None
    uncertainty: bool | Sequence[str] = False
    member_outputs: bool = False
    max_rows: int | None = None
    outputs: Sequence[str] = ()
    coverage: float | None = None
    quantiles: Sequence[float] | None = None
    version: str = ""
    classes: int = 0
    class_only: bool = False

    def __post_init__(self) -> None:
        """Raise RequestRejected if a value is invalid."""
        if self.timeout is not None and not 0 < self.timeout < inf:
            raise RequestRejected(f"a timeout is a number of seconds above 0, not {self.timeout}")
        for name in ("quorum", "max_rows"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise RequestRejected(f"{name} is a whole number, 1 or more, not {value!r}")
        if self.members is not None and not self.member_names:
            raise RequestRejected("members is empty: name one or more, or leave it out for all")
        levels = [*(self.quantiles or ()), *([] if self.coverage is None else [self.coverage])]
        if not all(0 < level < 1 for level in levels):
            raise RequestRejected(
                f"coverage and quantiles are numbers above 0 and below 1, not {levels}"
            )

    @property
    def member_names(self) -> tuple[str, ...]:
        """The selected members, () for all."""
        if self.members is None:
            return ()
        return (self.members,) if isinstance(self.members, str) else tuple(self.members)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The further outputs."""
        return (self.outputs,) if isinstance(self.outputs, str) else tuple(self.outputs)

    @property
    def parameters(self) -> dict[str, str | int | float | bool]:
        """The parameters of the request, without its timeout."""
        parameters: dict[str, str | int | float | bool] = {}
        if self.members is not None:
            parameters["members"] = ",".join(self.member_names)
        if self.quorum is not None:
            parameters["quorum"] = self.quorum
        if self.coverage is not None:
            parameters["coverage"] = float(self.coverage)
        if self.quantiles is not None:
            parameters["quantiles"] = ",".join(repr(float(level)) for level in self.quantiles)
        return parameters


@dataclass(frozen=True)
class RequestTensor(RawTensor):
    """An input tensor that can be cut by rows."""

    row_ends: tuple[int, ...] | None = None  # of BYTES, in `data`; None if all rows have one size

    @property
    def row_count(self) -> int:
        """The number of rows."""
        return self.shape[0]

    def end_of(self, row: int) -> int:
        """Return where a row ends in `data`; row -1 ends at 0."""
        if self.row_ends is not None:
            return self.row_ends[row] if row >= 0 else 0
        return (row + 1) * (len(self.data) // self.row_count)

    def rows(self, start: int, stop: int) -> RequestTensor:
        """Return the rows [start, stop); they share the memory of this tensor."""
        begin, end = self.end_of(start - 1), self.end_of(stop - 1)
        ends = self.row_ends and tuple(at - begin for at in self.row_ends[start:stop])
        shape = (stop - start, *self.shape[1:])
        return RequestTensor(
            self.name, self.datatype, shape, memoryview(self.data)[begin:end], ends
        )


@dataclass(frozen=True)
class InferCall:
    """A request to predict."""

    model: str
    tensors: tuple[RequestTensor, ...]
    outputs: Mapping[str, int]  # by name how many best classes to name; 0 for values
    parameters: Mapping[str, str | int | float | bool]
    version: str = ""  # of the model; the server chooses if it is empty

    @property
    def size_bytes(self) -> int:
        """The size of the raw tensors."""
        return sum(len(tensor.data) for tensor in self.tensors)

    def with_timeout(self, timeout_us: int) -> InferCall:
        """Return the call with the parameter for its deadline."""
        return replace(self, parameters={**self.parameters, "timeout": timeout_us})


def split_call(
    call: InferCall,
    *,
    limit_bytes: int | None,
    overhead_bytes: int,
    max_rows: int | None = None,
) -> list[InferCall]:
    """Return a call in as few pieces as the limits allow; mostly it is one.

    `limit_bytes` is the server's, of a request's body, of which `overhead_bytes` are not raw
    tensors. Raises RequestTooLarge if a single row is too large.
    """
    rows = call.tensors[0].row_count
    space_bytes = None if limit_bytes is None else limit_bytes - overhead_bytes
    fits = space_bytes is None or call.size_bytes <= space_bytes
    if fits and (max_rows is None or rows <= max_rows):
        return [call]
    if any(tensor.row_count != rows for tensor in call.tensors):
        return [call]  # the server says what is wrong with it
    pieces, start = [], 0
    while start < rows:
        stop = _last_stop(call, start, rows, space_bytes)
        stop = stop if max_rows is None else min(stop, start + max_rows)
        if stop == start:
            raise RequestTooLarge(
                f"row {start} alone is larger than the server's limit of {limit_bytes} bytes"
            )
        tensors = tuple(tensor.rows(start, stop) for tensor in call.tensors)
        pieces.append(replace(call, tensors=tensors))
        start = stop
    return pieces


def _last_stop(call: InferCall, start: int, rows: int, space_bytes: int | None) -> int:
    """The largest stop for which rows [start, stop) fit, by bisection."""
    if space_bytes is None:
        return rows
    begin = sum(tensor.end_of(start - 1) for tensor in call.tensors)
    low, high = start, rows
    while low < high:
        middle = (low + high + 1) // 2
        end = sum(tensor.end_of(middle - 1) for tensor in call.tensors)
        low, high = (middle, high) if end - begin <= space_bytes else (low, middle - 1)
    return low


def join_responses(responses: Sequence[InferResponse]) -> InferResponse:
    """Join the responses to the pieces of a call: rows in order, and the members common to all.

    Raises ServerFailure if they don't fit together.
    """
    first = responses[0]
    if len(responses) == 1:
        return first
    try:
        outputs = {
            name: np.concatenate([response.outputs[name] for response in responses])
            for name in first.outputs
        }
    except (KeyError, ValueError) as error:
        raise ServerFailure(f"the server's answers don't fit together: {error}") from error
    each = [str(response.parameters.get("members", "")).split(",") for response in responses]
    common = [name for name in each[0] if all(name in names for names in each)]
    degraded = any(response.parameters.get("degraded", False) for response in responses)
    parameters = {**first.parameters, "members": ",".join(common), "degraded": degraded}
    if any(one.parameters.get("generation") != parameters.get("generation") for one in responses):
        parameters["generation"] = 0  # the server has changed what it serves in between
    return InferResponse(outputs, parameters)
