"""Validates a new deployment: it and the present one are asked the same rows (`validate`).

Runs in the front-end, before any client's request goes to the new deployment. The rows of a file
flow in; why the new model must not be served flows out, or what was compared.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from server.errors import ConfigError, RequestError
from server.inference.dataset import Inputs, read_inputs
from server.inference.endpoint import Endpoint
from server.inference.inference import Inference
from server.inference.outputs import main_values
from server.inference.requests import InferRequest
from server.inference.spec import InputSpec, ModelSpec, ValidationSpec
from server.inference.tensors import InputTensor
from server.rollout.agreement import Agreement, Values, compare
from workers.runtime.spec import TensorSpec

__all__ = ["ValidationFailed", "validate"]

#: So few rows at a time leave the devices to the clients' requests.
_ROWS = 16


class ValidationFailed(Exception):
    """The new model must not be served; the text is one line that says why."""


async def validate(
    inference: Inference, spec: ValidationSpec, present: Endpoint, new: Endpoint
) -> str:
    """Ask both models all rows of a file; return what was compared, in one line.

    Raises:
        ValidationFailed: if the new model can't predict the rows, or too many answers differ.
    """
    name, where = new.model.name, Path(spec.path)
    read = partial(read_inputs, f"{spec.key}.validate.data", where, _tensors(new.model))
    try:
        inputs = await asyncio.to_thread(read)
    except ConfigError as error:
        raise ValidationFailed(str(error)) from None
    rows, disagreeing, difference = 0, 0.0, 0.0
    for part in _parts(inputs):
        found = compare(
            await _ask(inference, present, part), await _ask(inference, new, part), spec.tolerance
        )
        rows, disagreeing = rows + found.rows, disagreeing + found.disagreeing
        difference = max(difference, found.difference)
    line = f"{name}: {_describe(Agreement(rows, disagreeing, difference))} of {where.name}"
    if disagreeing > spec.max_disagreement * rows:
        raise ValidationFailed(f"{line}: more than {spec.max_disagreement:.1%} may not differ")
    return line


def _describe(found: Agreement) -> str:
    largest = f" (by {found.difference:.3g} at most)" if found.difference else ""
    return f"the answers to {found.disagreeing:g} of {found.rows} rows differ{largest},"


def _tensors(model: ModelSpec) -> list[TensorSpec]:
    """The inputs in a file; images are pixels of any height and width."""
    return [
        msgspec.structs.replace(one.tensor, datatype="UINT8", shape=(-1, -1, 3))
        if one.is_image
        else one.tensor
        for one in model.inputs
        if not one.is_optional
    ]


def _parts(inputs: Inputs) -> Iterator[Inputs]:
    rows = len(next(iter(inputs.values())))
    for start in range(0, rows, _ROWS):
        yield {name: array[start : start + _ROWS] for name, array in inputs.items()}


async def _ask(inference: Inference, endpoint: Endpoint, inputs: Inputs) -> Values:
    """The main output of a model for some rows."""
    model = endpoint.model
    tensors = [
        _tensor(one, inputs[one.tensor.name]) for one in model.inputs if one.tensor.name in inputs
    ]
    request = InferRequest("", tensors)
    try:
        bound = await inference.bind(endpoint, request)
        answer = await inference.answer(bound, time.monotonic())
    except RequestError as error:
        raise ValidationFailed(f"{model.name}: fails on the rows: {error.message}") from None
    return main_values(model, answer)


def _tensor(one: InputSpec, array: np.ndarray) -> InputTensor:
    name, shape = one.tensor.name, array.shape
    if one.tensor.datatype == "BYTES" and not one.is_image:
        return InputTensor(name, "BYTES", shape, elements=array.ravel().tolist())
    datatype = "UINT8" if one.is_image else one.tensor.datatype
    return InputTensor(name, datatype, shape, array)
