"""Requests that are too big for a server, in pieces; and their answers, put together. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ensembled_client.errors import RequestTooLarge, ServerFailure
from ensembled_client.exchange import InferRequest
from ensembled_client.wire import InferResponse

__all__ = ["join", "split"]


def split(
    request: InferRequest,
    *,
    limit_bytes: int | None,
    overhead_bytes: int,
    max_rows: int | None = None,
) -> list[InferRequest]:
    """Return the request in as few pieces as the limits allow; mostly it is one.

    Args:
        request: all rows.
        limit_bytes: the server's, of a request's body; None if it has none.
        overhead_bytes: of a body that are not raw tensors.
        max_rows: the caller's limit of a piece, None for none.

    Raises:
        RequestTooLarge: if a row is too big alone.
    """
    rows = request.tensors[0].row_count
    room_bytes = None if limit_bytes is None else limit_bytes - overhead_bytes
    size_bytes = sum(len(tensor.data) for tensor in request.tensors)
    fits = room_bytes is None or size_bytes <= room_bytes
    if fits and (max_rows is None or rows <= max_rows):
        return [request]
    if any(tensor.row_count != rows for tensor in request.tensors):
        return [request]  # the server says what is wrong with it
    pieces, start = [], 0
    while start < rows:
        stop = _stop(request, start, rows, room_bytes)
        stop = stop if max_rows is None else min(stop, start + max_rows)
        if stop == start:
            raise RequestTooLarge(
                f"row {start} alone is larger than the server's limit of {limit_bytes} bytes"
            )
        tensors = tuple(tensor.rows(start, stop) for tensor in request.tensors)
        pieces.append(replace(request, tensors=tensors))
        start = stop
    return pieces


def _stop(request: InferRequest, start: int, rows: int, room_bytes: int | None) -> int:
    """Where a piece that begins at `start` must end, by bisection."""
    if room_bytes is None:
        return rows
    begin = sum(tensor.end_of(start - 1) for tensor in request.tensors)
    low, high = start, rows
    while low < high:
        middle = (low + high + 1) // 2
        end = sum(tensor.end_of(middle - 1) for tensor in request.tensors)
        low, high = (middle, high) if end - begin <= room_bytes else (low, middle - 1)
    return low


def join(answers: Sequence[InferResponse]) -> InferResponse:
    """Put the answers of pieces together: rows in order, members that all rest on.

    Raises:
        ServerFailure: if they don't fit together.
    """
    first = answers[0]
    if len(answers) == 1:
        return first
    try:
        outputs = {
            name: np.concatenate([answer.outputs[name] for answer in answers])
            for name in first.outputs
        }
    except (KeyError, ValueError) as error:
        raise ServerFailure(f"the server's answers don't fit together: {error}") from error
    each = [str(answer.parameters.get("members", "")).split(",") for answer in answers]
    common = [name for name in each[0] if all(name in names for names in each)]
    degraded = any(answer.parameters.get("degraded", False) for answer in answers)
    parameters = {**first.parameters, "members": ",".join(common), "degraded": degraded}
    return InferResponse(outputs, parameters)
