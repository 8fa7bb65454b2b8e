"""Inputs and wanted outputs of tritonclient, whose HTTP and gRPC modules have classes of their own.

`api` is `tritonclient.http` or `tritonclient.grpc` (their aio modules share these classes).
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from cases import Bad
from tritonclient.utils import np_to_triton_dtype

__all__ = ["inputs", "refused", "tensor"]


def tensor(api: ModuleType, x: np.ndarray, name: str = "x", **options: Any) -> Any:
    """An input that holds an array."""
    made = api.InferInput(name, list(x.shape), np_to_triton_dtype(x.dtype))
    made.set_data_from_numpy(x, **options)
    return made


def inputs(api: ModuleType, x: np.ndarray, **options: Any) -> list[Any]:
    """The inputs of a request to the digits server."""
    return [tensor(api, x, **options)]


def refused(api: ModuleType, bad: Bad) -> dict[str, Any]:
    """Arguments of `infer` for a request that is to be refused."""
    return {
        "model_name": bad.model,
        "model_version": bad.version,
        "inputs": [tensor(api, bad.array, bad.name)],
        "outputs": [api.InferRequestedOutput(bad.output)],
        "parameters": bad.parameters,
    }
