"""A model's outputs: their specs, the engine's options for them, and their tensors.

Runs in the front-end, under every protocol; pure. Requested outputs flow in, options for the engine
flow out; later its answer flows in, tensors flow out. The combined output is the default;
uncertainty, members' own predictions and the members behind each row are extra outputs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from ensembled_client.wire import join_elements

from allocator.dispatch.flows import HIGH, NORMAL
from server.engine.request import Answer, InferOptions
from server.errors import InvalidRequest
from server.inference.predictive import (
    check_predictive,
    needs_predictions,
    predictive_array,
    predictive_outputs,
)
from server.inference.requests import InferRequest, RequestedOutput, RequestParameters
from server.inference.spec import ModelSpec, ServedOutput
from server.rollout.agreement import Values
from workers.runtime.spec import COMBINED, TensorSpec

__all__ = [
    "OutputTensor",
    "extra_outputs",
    "is_main_alone",
    "main_values",
    "member_names",
    "named_outputs",
    "output_tensors",
    "infer_options",
    "takes_long",
]

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
    own = defaultdict[str, list[TensorSpec]](list)
    for output in model.extra_outputs.values():
        own[output.source].append(output.tensor)
    computed = predictive_outputs(model)
    return (*own["class"], *own["score"], *computed, *own["mask"], *own["member"])


def named_outputs(model: ModelSpec, request: InferRequest) -> InferRequest:
    """A request that names the outputs that it is to get: all regular ones, if it names none."""
    first, names = request.outputs[0], model.regular_outputs
    if not first.is_default or names.keys() == {COMBINED}:
        return request
    outputs = tuple([RequestedOutput(name, first.binary) for name in names])
    return msgspec.structs.replace(request, outputs=outputs)


def is_main_alone(model: ModelSpec, outputs: Sequence[RequestedOutput]) -> bool:
    """Whether nothing but the values of the main output is requested."""
    output = outputs[0]
    served = model.outputs.get(output.name)
    is_main = served is not None and served.source == "combined" and not served.number
    return len(outputs) == 1 and is_main and not output.classes


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
                f"parameter members: {model.name!r} has no member {name!r}, "
                f"it has {', '.join(model.members)}"
            )
        members |= 1 << index[name]
    _check_subset(model, members, parameters.quorum)
    names = [output.name for output in outputs]
    if len(set(names)) < len(names):
        raise InvalidRequest("an output is requested twice")
    predictive = {tensor.name for tensor in predictive_outputs(model)}
    found: list[ServedOutput] = []
    for output in outputs:
        served = model.outputs.get(output.name)
        if served is not None:
            found.append(served)
        elif output.name not in predictive:
            known = [*model.regular_outputs, *(t.name for t in extra_outputs(model))]
            raise InvalidRequest(
                f"{model.name!r} has no output {output.name!r}, it has {', '.join(known)}"
            )
        if output.classes:
            _check_classes(output, served)
        if output.name in predictive:
            check_predictive(model, output, some_members=members not in (0, spec.mask))
    sources = [one.source for one in found]
    return InferOptions(
        timeout_s=parameters.timeout_s,
        members=members or -1,
        quorum=parameters.quorum,
        scores="score" in sources,
        predictions=_wanted_predictions(model, names, found),
        outputs=tuple([one.number for one in found if one.source == "combined" and one.number]),
        masks="mask" in sources,
        class_only=sources == ["class"] and len(names) == 1,
        priority=HIGH if parameters.is_urgent else NORMAL,
    )


def _wanted_predictions(
    model: ModelSpec, names: Sequence[str], found: Sequence[ServedOutput]
) -> tuple[int, ...]:
    """The members' own predictions that these outputs need, by area."""
    areas = [one.number for one in found if one.source == "member"]
    if any(needs_predictions(model, name) for name in names):
        areas += model.served.spec.main.areas
    return tuple(dict.fromkeys(areas))


def _check_subset(model: ModelSpec, members: int, quorum: int) -> None:
    """Refuse a subset of the members if the rule needs all of them."""
    spec = model.served.spec
    too_few = members not in (0, spec.mask) or 0 < quorum < len(spec.members)
    if spec.needs_all and too_few:
        raise InvalidRequest(
            f"rule {spec.rule} of {spec.name!r} needs all of its members, "
            "ask for them all and without a smaller quorum"
        )


def _check_classes(output: RequestedOutput, served: ServedOutput | None) -> None:
    if served is None or served.source not in {"combined", "member"}:
        raise InvalidRequest(f"classification: {output.name!r} does not consist of classes")
    if len(served.tensor.shape) != 1:
        shape = list(served.tensor.shape)
        raise InvalidRequest(f"classification needs an output per class, not {shape}")


def output_tensors(
    model: ModelSpec, answer: Answer, outputs: Sequence[RequestedOutput]
) -> list[OutputTensor]:
    """The tensors of an answer to a request with these outputs' `infer_options`, in their order."""
    return [_output_tensor(model, answer, output) for output in outputs]


def main_values(model: ModelSpec, answer: Answer) -> Values:
    """The main output of an answer, to be compared with that of another model."""
    spec = model.served.spec
    shape = (answer.rows, *spec.output.own_shape(answer.sizes))
    array = np.frombuffer(answer.values, spec.output.dtype).reshape(shape)
    return Values(array, spec.main.class_axis if model.gives_classes else None, model.labels)


def takes_long(model: ModelSpec, answer: Answer, outputs: Sequence[RequestedOutput]) -> bool:
    """Whether `output_tensors` should run in a thread: NumPy works there without the lock."""
    return answer.rows > _MANY_ROWS and any(
        needs_predictions(model, output.name) for output in outputs
    )


def _output_tensor(model: ModelSpec, answer: Answer, requested: RequestedOutput) -> OutputTensor:
    served = model.outputs.get(requested.name)
    if served is None:
        return _predictive_tensor(model, answer, requested)
    if served.source == "combined" and not served.number and not requested.classes:
        shape = [answer.rows, *served.tensor.own_shape(answer.sizes)]
        return OutputTensor(requested.name, served.tensor.datatype, shape, answer.values)
    array = _array(model, answer, served)
    if requested.classes:
        return _classes(array, served.labels, requested)
    return _tensor(requested.name, served.tensor.datatype, array)


def _array(model: ModelSpec, answer: Answer, served: ServedOutput) -> npt.NDArray[Any]:
    """The values of an output, [rows, *shape]."""
    spec, extras = model.served.spec, answer.extras
    if served.source == "class" or (served.source == "combined" and not served.number):
        output = spec.output
        shape = answer.rows, *output.own_shape(answer.sizes)
        main = np.frombuffer(answer.values, output.dtype).reshape(shape)
        if served.source == "combined":
            return main
        return np.asarray(main.argmax(axis=spec.main.class_axis), np.int64)
    assert extras is not None, "they were requested"
    match served.source:
        case "combined":
            return extras.outputs[served.number]
        case "score":
            return extras.scores[:, served.number]
        case "member":
            return extras.predictions[served.number]
        case _:
            bits = np.array(spec.members, np.uint64)
            return (extras.used[:, np.newaxis] >> bits & np.uint64(1)).astype(np.bool_)


def _predictive_tensor(
    model: ModelSpec, answer: Answer, requested: RequestedOutput
) -> OutputTensor:
    tensor = next(one for one in predictive_outputs(model) if one.name == requested.name)
    return _tensor(tensor.name, tensor.datatype, predictive_array(model, answer, requested))


def _tensor(name: str, datatype: str, array: npt.NDArray[Any]) -> OutputTensor:
    return OutputTensor(name, datatype, list(array.shape), array.tobytes())


def _classes(
    scores: npt.NDArray[Any], labels: Sequence[str], requested: RequestedOutput
) -> OutputTensor:
    """The best classes of each row as BYTES [rows, k]: ``score:index[:label]``, best first."""
    rows = len(scores)
    k = min(requested.classes, scores.shape[1])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    texts = [
        _class_text(scores[row, index], int(index), labels)
        for row in range(rows)
        for index in best[row]
    ]
    return OutputTensor(requested.name, "BYTES", [rows, k], join_elements(texts))


def _class_text(score: Any, index: int, labels: Sequence[str]) -> bytes:
    text = f"{score:f}:{index}"
    return (f"{text}:{labels[index]}" if labels else text).encode()
