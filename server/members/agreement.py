"""What members must agree on, with their models and with each other.

Runs in the supervisor before anything is started; pure, except for reading label files. The
configuration and inspected members flow in, a line per problem flows out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from ensembled_client.wire import DTYPES

from server.config import Config, ImageConfig
from server.members.augmentation import augmentation_problems
from server.members.classes import ensemble_labels
from server.members.combining import combining_problems
from server.members.inspect import InspectedMember
from server.members.outputs import output_problems
from server.members.predictive import predictive_problems
from server.members.sizes import shared_size_problems, size_problems
from workers.runtime.spec import TensorSpec

__all__ = ["agreement_problems"]

_FLOATS = {"FP16", "BF16", "FP32", "FP64"}
#: NumPy calls their conversion to FP64 safe, which rounds values above 2 ** 53.
_WIDER_THAN_FP64 = {"INT64", "UINT64"}


def agreement_problems(config: Config, members: Mapping[str, InspectedMember]) -> Iterator[str]:
    """Yield where members contradict their models or each other, a line each.

    Raises:
        ConfigError: if an ensemble's label file can't be read.
    """
    for member in members.values():
        yield from _input_problems(member)
        yield from size_problems(member)
        yield from augmentation_problems(member)
        for output in member.outputs:
            yield from output_problems(output)
    for name, ensemble in config.ensembles.items():
        chosen = [members[member] for member in ensemble.members]
        yield from _input_conflicts(f"ensembles.{name}", chosen)
        yield from shared_size_problems(f"ensembles.{name}", chosen)
        problems = list(combining_problems(name, ensemble, chosen, ensemble_labels(name, ensemble)))
        yield from problems or predictive_problems(name, ensemble, chosen)


def _input_conflicts(where: str, members: Sequence[InspectedMember]) -> Iterator[str]:
    """Yield where inputs of the same name differ: an ensemble's inputs are the union by name."""
    known: dict[str, tuple[InspectedMember, TensorSpec]] = {}
    for member in members:
        for sent in [one.sent for one in member.inputs]:
            first, tensor = known.setdefault(sent.name, (member, sent))
            if tensor != sent:
                is_size = (tensor.datatype, tensor.shape) == (sent.datatype, sent.shape)
                fix = "give it the same max_shape or max_bytes" if is_size else "convert it"
                yield (
                    f"{where}: members disagree on their input {sent.name!r}: {first.name!r} takes "
                    f"{_describe([tensor])}, {member.name!r} takes {_describe([sent])} "
                    f"(members.{member.name}.inputs can {fix}, or rename it if it is another)"
                )


def _input_problems(member: InspectedMember) -> Iterator[str]:
    name, inputs = member.name, member.signature.inputs
    if member.config.input is not None:
        shape = _image_shape(image := member.config.input.image)
        if len(inputs) != 1 or not _takes_image(inputs[0], image):
            yield (
                f"members.{name}.input.image: the model takes {_describe(inputs)}, "
                f"not one image FP32 {list(shape)}"
            )
    known = {tensor.name: tensor for tensor in inputs}
    counts = Counter(one.sent.name for one in member.inputs)
    if member.config.input is None:
        for sent in [sent for sent, count in counts.items() if count > 1]:
            yield f"members.{name}.inputs: two inputs are called {sent!r}, rename one of them"
    for own, config in member.config.inputs.items():
        tensor = known.get(own)
        if tensor is None:
            yield f"members.{name}.inputs: the model has no input {own!r}, it has {list(known)}"
            continue
        if config.image is not None and not _takes_image(tensor, config.image):
            yield (
                f"members.{name}.inputs.{own}.image: the model takes {_describe([tensor])}, "
                f"not an image FP32 {list(_image_shape(config.image))}"
            )
        declared = config.declared(own)
        is_other = declared is not None and declared.shape != tensor.shape
        if is_other or config.model_datatype not in (None, tensor.datatype):
            yield f"members.{name}.inputs.{own}: the model takes {_describe([tensor])}"
        if not _is_convertible(config.datatype or tensor.datatype, tensor.datatype):
            yield (
                f"members.{name}.inputs.{own}.datatype: {config.datatype} can't be converted to "
                f"the model's {tensor.datatype} without loss"
            )


def _takes_image(tensor: TensorSpec, image: ImageConfig) -> bool:
    return tensor.datatype in _FLOATS and tensor.shape == _image_shape(image)


def _image_shape(image: ImageConfig) -> tuple[int, ...]:
    """The shape of a model's input that holds an image."""
    side = (image.size, image.size)
    return (3, *side) if image.layout == "nchw" else (*side, 3)


def _is_convertible(sent: str, own: str) -> bool:
    """Whether a worker may convert a datatype: without loss, or between floats."""
    if sent == own or {sent, own} <= _FLOATS:
        return True
    if {"BF16", "BYTES"} & {sent, own} or (sent in _WIDER_THAN_FP64 and own in _FLOATS):
        return False
    return np.can_cast(DTYPES[sent], DTYPES[own], "safe")


def _describe(tensors: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{t.name} {t.datatype} {list(t.shape)}{_bounds(t)}" for t in tensors)


def _bounds(tensor: TensorSpec) -> str:
    """The largest sizes of an input whose sizes vary."""
    if tensor.datatype == "BYTES" and tensor.max_bytes:
        return f" up to {tensor.max_bytes} bytes"
    return f" up to {list(tensor.max_shape)}" if tensor.max_shape else ""
