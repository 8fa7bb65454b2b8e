"""Which members have copies at lower precision made, on what they are calibrated, and the making.

Runs in the process of the command line; a child makes each copy (`workers.quantizer`). Inspected
members and the rows to calibrate on flow in, paths of copies and reasons for what there is none of
flow out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from server.calibration.metrics import Array
from server.config import RecipeConfig
from server.errors import ConfigError
from server.inference.dataset import Inputs
from server.inference.images import ImageError, preprocess_image
from server.members.inspect import InspectedMember, MemberInput
from server.members.variants import VARIANT, variant_problems
from workers.backends.inspection import InspectionError, inspect_models
from workers.quantizer import CopyError, CopyTask, Precision, make_copy
from workers.runtime.spec import Scaling, TensorSpec
from workers.worker.inputs import convert, scale

__all__ = ["RUNS_ON", "Copy", "copy_sections", "make_copies", "uncopied"]

#: What a copy does not take over from its member.
_OWN_KEYS = ("model", "backend", "variants", "may_differ", "rollout", "validate")
#: Where a precision pays: there are no kernels for FP16 on CPUs, and none for int8 on GPUs.
RUNS_ON = {"int8": "cpu", "int8-dynamic": "cpu", "fp16": "gpu"}


@dataclass(frozen=True)
class Copy:
    """A copy of a member's model at a precision."""

    member: InspectedMember
    precision: Precision
    path: Path

    @property
    def labels(self) -> Path | None:
        """The file of the labels that a recipe has made, beside the copy; None without such."""
        is_made = isinstance(self.member.config.model, RecipeConfig) and self.member.labels
        return self.path.with_name(f"{self.member.name}.labels.txt") if is_made else None

    @property
    def name(self) -> str:
        """What it is called as a member of its own."""
        return f"{self.member.name}-{self.precision}"


def uncopied(member: InspectedMember) -> str:
    """Return why there are no copies of a member, nothing if there can be some."""
    if "@" in member.name:
        return "it is one of several versions, of which none is copied"
    if member.source.backend != "onnx":
        return f"its model is for {member.source.backend}: only ONNX files are copied"
    if any(tensor.datatype == "BYTES" for tensor in member.signature.inputs):
        return "its inputs are texts"
    return ""


def make_copies(
    member: InspectedMember,
    rows: Inputs,
    precisions: Iterable[Precision],
    directory: Path,
    left_out: dict[str, str],
) -> list[Copy]:
    """Make copies of a member's model in a directory; what fails is added to `left_out`.

    Args:
        member: whose model is an ONNX file.
        rows: to calibrate on, by the clients' names of inputs.
        precisions: of the copies.
        directory: of the copies.
        left_out: by copy, why it can't be used.
    """
    calibration = directory / f"{member.name}.npz"
    made = []
    for precision in precisions:
        copy = Copy(member, precision, directory / f"{member.name}-{precision}.onnx")
        task = CopyTask(
            model=member.source.path,
            precision=precision,
            output=str(copy.path),
            inputs=tuple(tensor.name for tensor in member.signature.inputs),
            calibration=str(calibration),
        )
        if precision == "int8":
            np.savez(calibration, *_model_inputs(member, rows))
        try:
            make_copy(task)
            _check_signature(copy)
        except CopyError as error:
            left_out[copy.name] = str(error)
        else:
            made.append(copy)
            if copy.labels is not None:
                lines = "".join(f"{label}\n" for label in member.labels)
                copy.labels.write_text(lines, encoding="utf-8")
    calibration.unlink(missing_ok=True)
    return made


def _check_signature(copy: Copy) -> None:
    """Raise CopyError if a copy can't be loaded, or takes or gives something else."""
    own = copy.member.source
    source = msgspec.structs.replace(own, path=str(copy.path), stamps=(), links="")
    try:
        before, after = inspect_models([own, source])
    except InspectionError as error:
        raise CopyError(error.messages[0]) from None
    name = f"{copy.member.name}{VARIANT}{copy.precision}"
    for problem in variant_problems({copy.member.name: before, name: after}):
        raise CopyError(problem.partition(": ")[2])


def _model_inputs(member: InspectedMember, rows: Inputs) -> list[Array]:
    """Return rows as the model gets them in a worker, in the order of its inputs."""
    return [
        _model_input(tensor, one, rows[one.sent.name])
        for tensor, one in zip(member.signature.inputs, member.inputs, strict=True)
    ]


def _model_input(tensor: TensorSpec, one: MemberInput, rows: Array) -> Array:
    if one.image is None:
        return convert(rows, one.sent.datatype, tensor.datatype)
    preparation = one.image.preparation()
    scaling = Scaling(one.image.mean, one.image.std, one.image.layout)
    try:
        pixels = [preprocess_image(row, [preparation], row.size)[0] for row in rows]
    except ImageError as error:
        raise ConfigError(f"--data: {one.sent.name}: {error}") from None
    return convert(scale(np.stack(pixels), scaling), "FP32", tensor.datatype)


def copy_sections(
    sections: Mapping[str, Mapping[str, Any]], copies: Iterable[Copy], directory: Path
) -> dict[str, dict[str, Any]]:
    """Return copies as members of their own, for a configuration in a directory.

    `sections` are those of their members there.
    """
    found: dict[str, dict[str, Any]] = {}
    for copy in copies:
        own = sections[copy.member.name]
        kept = {key: deepcopy(value) for key, value in own.items() if key not in _OWN_KEYS}
        if copy.labels is not None:
            kept["labels"] = os.path.relpath(copy.labels, directory)
        found[copy.name] = {"model": os.path.relpath(copy.path, directory), **kept}
    return found
