"""Requests and answers of KServe's Python package; REST and gRPC share these classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from cases import Bad
from kserve import InferInput, InferRequest, InferResponse
from kserve.protocol.infer_type import RequestedOutput
from kserve.utils.numpy_codec import from_np_dtype

__all__ = ["answer", "refused", "request"]


def request(
    x: np.ndarray,
    *,
    name: str = "x",
    model: str = "digits",
    binary: bool = False,
    **options: Any,
) -> InferRequest:
    """A request with one input, raw or as typed values."""
    tensor = InferInput(name, list(x.shape), from_np_dtype(x.dtype))
    tensor.set_data_from_numpy(x, binary_data=binary)
    return InferRequest(model, [tensor], **options)


def answer(response: InferResponse, name: str = "output") -> np.ndarray:
    """An output."""
    (found,) = (output for output in response.outputs if output.name == name)
    return found.as_numpy()


def refused(bad: Bad, *, binary: bool = False) -> InferRequest:
    """A request that is to be refused."""
    return request(
        bad.array,
        name=bad.name,
        model=bad.model,
        binary=binary,
        model_version=bad.version or None,
        parameters=bad.parameters,
        request_outputs=[RequestedOutput(bad.output)],
    )
