"""What members must agree on, with their models and with each other.

Runs in the supervisor before anything is started; pure, but for the ensembles' files of labels. The
configuration and what is known of the models flow in, one line per problem flows out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from ensembled_client.wire import DTYPES

from server.config import Config, EnsembleConfig
from server.members.classes import class_problems, read_labels
from server.members.member import KnownMember
from server.members.rule_checks import rule_problems
from workers.runtime.spec import TensorSpec

__all__ = ["own_labels", "problems_of"]

_FLOATS = {"FP16", "BF16", "FP32", "FP64"}
#: NumPy takes them to be safe in FP64, which rounds those above 2 ** 53.
_WIDER_THAN_FP64 = {"INT64", "UINT64"}


def problems_of(config: Config, members: Mapping[str, KnownMember]) -> Iterator[str]:
    """Everything that members, or members of one ensemble, don't agree on; one line each.

    Args:
        config: the configuration.
        members: all of its members, by name.

    Raises:
        ConfigError: if an ensemble's file of labels can't be read.
    """
    for name, member in members.items():
        yield from _member_problems(name, member)
    for name, ensemble in config.ensembles.items():
        chosen = [members[member] for member in ensemble.members]
        yield from _ensemble_problems(name, ensemble, chosen)


def own_labels(name: str, ensemble: EnsembleConfig) -> tuple[str, ...]:
    """Return the labels that an ensemble itself was given, empty if there are none.

    Raises:
        ConfigError: if their file can't be read.
    """
    path = ensemble.labels
    return () if path is None else read_labels(f"ensembles.{name}.labels", path)


def _ensemble_problems(
    name: str, ensemble: EnsembleConfig, chosen: Sequence[KnownMember]
) -> Iterator[str]:
    first = chosen[0]
    for other in chosen[1:]:
        yield from _disagreements(f"ensembles.{name}", first, other)
    yield from class_problems(name, chosen, own_labels(name, ensemble))
    yield from rule_problems(name, ensemble, first.prediction, first.config.output)
    if ensemble.cascade and not first.gives_classes:
        yield f"ensembles.{name}.cascade: needs members that give a probability per class"


def _disagreements(where: str, first: KnownMember, other: KnownMember) -> Iterator[str]:
    if first.input_key != other.input_key:
        yield (
            f"{where}: members disagree on their input: {first.name!r} takes "
            f"{_describe(first.client_inputs)}, {other.name!r} takes "
            f"{_describe(other.client_inputs)} (members.{other.name}.inputs can rename and "
            f"convert them)"
        )
    if (first.config.output == "values") != (other.config.output == "values"):
        yield (
            f"{where}: members disagree on what their output means: {first.name!r} gives "
            f"{first.config.output}, {other.name!r} gives {other.config.output}"
        )


def _member_problems(name: str, member: KnownMember) -> Iterator[str]:
    yield from _input_problems(name, member)
    output, prediction = member.signature.output, member.prediction
    meaning, is_plain = member.config.output, member.config.temperature == 1
    if not output.shape and (meaning == "logits" or (meaning == "probabilities" and not is_plain)):
        yield f"members.{name}.output: {meaning} need an output per class, not one per row"
    if meaning == "class" and (
        output.shape not in {(), (1,)} or not np.issubdtype(output.dtype, np.integer)
    ):
        yield (
            f"members.{name}.output: a class is one whole number per row, the model gives "
            f"{output.datatype} {list(output.shape)}"
        )
    if member.labels and (len(member.labels),) != prediction.shape:
        yield (
            f"members.{name}.labels: {len(member.labels)} labels for an output of shape "
            f"{list(prediction.shape)}"
        )


def _input_problems(name: str, member: KnownMember) -> Iterator[str]:
    inputs = member.signature.inputs
    if member.config.input is not None:
        image = member.config.input.image
        side = (image.size, image.size)
        shape = (3, *side) if image.layout == "nchw" else (*side, 3)
        if len(inputs) != 1 or inputs[0].datatype not in _FLOATS or inputs[0].shape != shape:
            yield (
                f"members.{name}.input.image: the model takes {_describe(inputs)}, "
                f"not one image FP32 {list(shape)}"
            )
    known = {tensor.name: tensor for tensor in inputs}
    for own, config in member.config.inputs.items():
        tensor = known.get(own)
        if tensor is None:
            yield f"members.{name}.inputs: the model has no input {own!r}, it has {list(known)}"
            continue
        if config.shape not in (None, tensor.shape) or (
            config.model_datatype not in (None, tensor.datatype)
        ):
            yield f"members.{name}.inputs.{own}: the model takes {_describe([tensor])}"
        if not _converts(config.datatype or tensor.datatype, tensor.datatype):
            yield (
                f"members.{name}.inputs.{own}.datatype: {config.datatype} can't be converted to "
                f"the model's {tensor.datatype} without loss"
            )


def _converts(given: str, own: str) -> bool:
    """Whether a worker may turn one type into the other: without loss, or among floats."""
    if given == own or {given, own} <= _FLOATS:
        return True
    if "BF16" in (given, own) or (given in _WIDER_THAN_FP64 and own in _FLOATS):
        return False
    return np.can_cast(DTYPES[given], DTYPES[own], "safe")


def _describe(tensors: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{t.name} {t.datatype} {list(t.shape)}" for t in tensors)
