"""Judges the model of a trial: loads it, and predicts the validation rows with it.

Runs as a child of `server.growth.judging.judge`. A `Question` flows in on stdin, a `Judgement` out
on the descriptor that is the first argument, predictions into a file.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from server.config import Config
from server.config.problems import problem_lines
from server.errors import ConfigError, EnsembledError
from server.growth.judging import UNUSABLE, Judgement, Question
from server.inference.dataset import Inputs, read_inputs
from server.members.agreement import agreement_problems
from server.members.inspect import InspectedMember, inspect_members
from server.members.probes import Probes
from workers import backends
from workers.backends.base import Model
from workers.backends.inspection import InspectionError
from workers.runtime.cache import write_atomically
from workers.runtime.child_main import end_with
from workers.runtime.importing import describe_failure
from workers.runtime.spec import DeviceSpec, ModelSignature, ModelSource
from workers.runtime.texts import abridge_line
from workers.worker.inputs import convert
from workers.worker.postprocess import postprocessor

__all__ = ["main"]

Array = npt.NDArray[Any]

_BATCH_ROWS = 64
_UNPREDICTED = "model can't predict the data"


def main() -> None:
    """Answer the question on stdin: the child's part."""
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    end_with(msgspec.json.encode(_judge(question)))


def _judge(question: Question) -> Judgement:
    models: dict[str, Model] = {}

    def load_here(sources: Sequence[ModelSource]) -> list[ModelSignature]:
        for source in sources:
            try:
                models[source.member] = backends.load(source, DeviceSpec("cpu:0", "cpu", 0))
            except backends.ModelError as error:
                raise InspectionError([str(error)]) from None
        return [models[source.member].signature for source in sources]

    try:
        config = _configured(question)
        (member,) = inspect_members(config, Probes(inspect_models=load_here))
        if problems := list(agreement_problems(config, {member.name: member})):
            raise ConfigError(problems)
    except Exception as error:
        return _problem(UNUSABLE, error)
    if question.data:
        try:
            rows = _inputs(member, Path(question.data))
            found = _predict(models[member.source.member], member, rows)
            write_atomically(Path(question.output), _npy(found))
        except Exception as error:
            return _problem(_UNPREDICTED, error)
    return Judgement()


def _npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _problem(kind: str, error: Exception) -> Judgement:
    logging.getLogger(__name__).warning("%s", kind, exc_info=error)
    text = str(error) if isinstance(error, EnsembledError) else describe_failure(error)
    return Judgement(kind, abridge_line(text))


def _configured(question: Question) -> Config:
    context = {"directory": Path(question.library), "files": {}}
    try:
        document = {"members": {question.name: question.member}}
        return Config.model_validate(document, context=context)
    except ValidationError as error:
        raise ConfigError(problem_lines(error, "what the function returned")) from None


def _inputs(member: InspectedMember, data: Path) -> list[Array]:
    """Return what the model takes, one array [rows, ...] per input."""
    if any(one.image is not None for one in member.inputs):
        raise ConfigError("--data: members that take images are compared by quality only, leave it")
    sent: Inputs = read_inputs("--data", data, [one.sent for one in member.inputs])
    return [
        np.ascontiguousarray(convert(sent[one.sent.name], one.sent.datatype, tensor.datatype))
        for one, tensor in zip(member.inputs, member.signature.inputs, strict=True)
    ]


def _predict(model: Model, member: InspectedMember, inputs: Sequence[Array]) -> Array:
    """Return the classes of all rows, or the numbers that are predicted."""
    postprocess = postprocessor(member.output.spec(0))
    found = []
    for start in range(0, len(inputs[0]), _BATCH_ROWS):
        batch = [rows[start : start + _BATCH_ROWS] for rows in inputs]
        found.append(postprocess(model.predict(batch)[0]))
    predictions = np.concatenate(found)
    finite = np.isfinite(predictions).reshape(len(predictions), -1).all(axis=1)
    if not finite.all():
        raise ConfigError(f"predicts NaN or infinity for row {int(finite.argmin())}")
    if member.output.gives_classes:
        classes: Array = predictions.argmax(axis=member.output.class_axis).astype(np.int32)
        return classes
    return predictions.astype(np.float32)


if __name__ == "__main__":
    main()
