"""A model's outputs: their specs, the engine's options for them, and their tensors.

Runs in the front-end, under every protocol; pure. Requested outputs flow in, options for the engine
flow out; later its answer flows in, tensors flow out. The combined output is the default;
uncertainty, members' own predictions and the members behind each row are extra outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from ensembled_client.wire import CLASS_SCORES, join_elements

from allocator.dispatch.flows import HIGH, NORMAL
from server.engine.request import Answer, InferOptions
from server.errors import InvalidRequest
from server.inference.predictive import (
    check_predictive,
    needs_predictions,
    predictive_array,
    predictive_outputs,
)
from server.inference.requests import RequestedOutput, RequestParameters
from server.inference.spec import ModelSpec
from workers.runtime.spec import COMBINED, TensorSpec

__all__ = [
    "OutputTensor",
    "extra_outputs",
    "member_names",
    "output_tensors",
    "infer_options",
    "takes_long",
]

_CLASS = "class"
_MASK = "member_mask"
_MEMBER = f"{COMBINED}."
#: Quantiles of a mixture take some 20 us per row: more rows than these would hold up others.
_MANY_ROWS = 256


class OutputTensor(msgspec.Struct, frozen=True):
    """An output to be sent; its shape has the batch dimension first.

    The data is raw and little-endian, as on the wire; BYTES elements are each preceded by their
    length.
    """

    name: str
    datatype: str
    shape: list[int]
    data: bytes | bytearray | memoryview


def extra_outputs(model: ModelSpec) -> tuple[TensorSpec, ...]:
    """The outputs that a model has on request, without their batch dimension."""
    spec = model.served.spec
    if model.is_member:
        return ()
    predicted = spec.predicted
    return (
        *([TensorSpec(_CLASS, "INT64", ())] if _has_classes(model) else []),
        *(TensorSpec(name, "FP32", ()) for name in spec.scores),
        *predictive_outputs(model),
        TensorSpec(_MASK, "BOOL", (len(model.members),)),
        *(
            TensorSpec(_MEMBER + name, predicted.datatype, predicted.shape)
            for name in model.members
        ),
    )


def member_names(model: ModelSpec, mask: int) -> list[str]:
    """Names of the members in a mask, in the ensemble's order."""
    return [
        name
        for member, name in zip(model.served.spec.members, model.members, strict=True)
        if mask >> member & 1
    ]


def infer_options(
    model: ModelSpec, parameters: RequestParameters, outputs: Sequence[RequestedOutput]
) -> InferOptions:
    """The engine's options for a request.

    Raises `InvalidRequest` if the model lacks a member or output, or an output is requested twice.
    """
    spec = model.served.spec
    index = dict(zip(model.members, spec.members, strict=True))
    members = 0
    for name in parameters.members:
        if name not in index:
            raise InvalidRequest(
                f"parameter members: {model.served.name!r} has no member {name!r}, "
                f"it has {', '.join(model.members)}"
            )
        members |= 1 << index[name]
    _check_subset(model, members, parameters.quorum)
    names = [output.name for output in outputs]
    if len(set(names)) < len(names):
        raise InvalidRequest("an output is requested twice")
    extras = {} if names == [COMBINED] else {tensor.name for tensor in extra_outputs(model)}
    predictive = {tensor.name for tensor in predictive_outputs(model)}
    for output in outputs:
        if output.name != COMBINED and output.name not in extras:
            raise InvalidRequest(
                f"{model.served.name!r} has no output {output.name!r}, "
                f"it has {', '.join([COMBINED, *(t.name for t in extra_outputs(model))])}"
            )
        if output.classes:
            _check_classes(model, output)
        if output.name in predictive:
            check_predictive(model, output, some_members=members not in (0, spec.mask))
    return InferOptions(
        timeout_s=parameters.timeout_s,
        members=members or -1,
        quorum=parameters.quorum,
        scores=any(name in spec.scores for name in names),
        predictions=_wanted_predictions(model, names),
        masks=_MASK in names,
        class_only=names == [_CLASS],
        priority=HIGH if parameters.is_urgent else NORMAL,
    )


def _wanted_predictions(model: ModelSpec, names: Sequence[str]) -> tuple[int, ...]:
    """The members whose own predictions these outputs need, by index."""
    members = model.served.spec.members
    if any(needs_predictions(model, name) for name in names):
        return members
    index = dict(zip(model.members, members, strict=True))
    return tuple(index[name.removeprefix(_MEMBER)] for name in names if name.startswith(_MEMBER))


def _check_subset(model: ModelSpec, members: int, quorum: int) -> None:
    """Refuse a subset of the members if the rule needs all of them."""
    spec = model.served.spec
    too_few = members not in (0, spec.mask) or 0 < quorum < len(spec.members)
    if spec.needs_all and too_few:
        raise InvalidRequest(
            f"rule {spec.rule} of {spec.name!r} needs all of its members, "
            "ask for them all and without a smaller quorum"
        )


def _has_classes(model: ModelSpec) -> bool:
    spec = model.served.spec
    return spec.scores == CLASS_SCORES and len(spec.output.shape) == 1


def _check_classes(model: ModelSpec, output: RequestedOutput) -> None:
    spec = model.served.spec
    shape = spec.output.shape if output.name == COMBINED else spec.predicted.shape
    if output.name != COMBINED and not output.name.startswith(_MEMBER):
        raise InvalidRequest(f"classification: {output.name!r} does not consist of classes")
    if len(shape) != 1:
        raise InvalidRequest(f"classification needs an output per class, not {list(shape)}")


def output_tensors(
    model: ModelSpec, answer: Answer, outputs: Sequence[RequestedOutput]
) -> list[OutputTensor]:
    """The tensors of an answer to a request with these outputs' `infer_options`, in their order."""
    return [_output_tensor(model, answer, output) for output in outputs]


def takes_long(model: ModelSpec, answer: Answer, outputs: Sequence[RequestedOutput]) -> bool:
    """Whether `output_tensors` should run in a thread: NumPy works there without the lock."""
    return answer.rows > _MANY_ROWS and any(
        needs_predictions(model, output.name) for output in outputs
    )


def _output_tensor(model: ModelSpec, answer: Answer, requested: RequestedOutput) -> OutputTensor:
    spec = model.served.spec
    if requested.name not in {COMBINED, _CLASS}:
        return _extra_tensor(model, answer, requested)
    values, tensor = answer.values, spec.output
    if requested.name == COMBINED and not requested.classes:
        return OutputTensor(COMBINED, tensor.datatype, [answer.rows, *tensor.shape], values)
    scores = np.frombuffer(values, tensor.dtype).reshape(answer.rows, -1)
    if requested.classes:
        return _classes(model, scores, requested)
    return _tensor(_CLASS, "INT64", scores.argmax(axis=1).astype(np.int64))


def _extra_tensor(model: ModelSpec, answer: Answer, requested: RequestedOutput) -> OutputTensor:
    spec, extras = model.served.spec, answer.extras
    for tensor in predictive_outputs(model):
        if tensor.name == requested.name:
            array = predictive_array(model, answer, requested)
            return _tensor(tensor.name, tensor.datatype, array)
    assert extras is not None, "they were requested"
    if requested.name == _MASK:
        bits = np.array(spec.members, np.uint64)
        mask = (extras.used[:, np.newaxis] >> bits & np.uint64(1)).astype(np.bool_)
        return _tensor(_MASK, "BOOL", mask)
    if requested.name in spec.scores:
        return _tensor(requested.name, "FP32", extras.scores[:, spec.scores.index(requested.name)])
    member = spec.members[model.members.index(requested.name.removeprefix(_MEMBER))]
    prediction = extras.predictions[member]
    if requested.classes:
        return _classes(model, prediction, requested)
    return _tensor(requested.name, spec.predicted.datatype, prediction)


def _tensor(name: str, datatype: str, array: npt.NDArray[Any]) -> OutputTensor:
    return OutputTensor(name, datatype, list(array.shape), array.tobytes())


def _classes(
    model: ModelSpec, scores: npt.NDArray[Any], requested: RequestedOutput
) -> OutputTensor:
    """The best classes of each row as BYTES [rows, k]: ``score:index[:label]``, best first."""
    rows = len(scores)
    k = min(requested.classes, scores.shape[1])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    texts = [
        _class_text(scores[row, index], int(index), model.labels)
        for row in range(rows)
        for index in best[row]
    ]
    return OutputTensor(requested.name, "BYTES", [rows, k], join_elements(texts))


def _class_text(score: Any, index: int, labels: Sequence[str]) -> bytes:
    text = f"{score:f}:{index}"
    return (f"{text}:{labels[index]}" if labels else text).encode()
