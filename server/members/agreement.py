"""What members must agree on, with their models and with each other, and how classes are matched.

Runs in the supervisor before anything is started; pure, except for reading label files. The
configuration and inspected members flow in; a line per problem, and the classes of ensembles, flow
out. Members with equal labels need no mapping. Otherwise classes are matched by label: those of the
ensemble's own file, or the union of its members' labels in order of first appearance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ensembled_client.wire import DTYPES

from server.config import Config, EnsembleConfig, ImageConfig
from server.members.augmentation import augmentation_problems
from server.members.inspect import InspectedMember, read_labels
from server.members.outputs import output_problems
from server.members.predictive import kind_problems, predictive_problems
from server.members.sizes import shared_size_problems, size_problems
from workers.rules.catalogue import CUSTOM, TRAITS
from workers.runtime.spec import TensorSpec

__all__ = [
    "MatchedClasses",
    "agreement_problems",
    "class_problems",
    "ensemble_labels",
    "match_classes",
    "rule_problems",
]

_FLOATS = {"FP16", "BF16", "FP32", "FP64"}
#: NumPy calls their conversion to FP64 safe, which rounds values above 2 ** 53.
_WIDER_THAN_FP64 = {"INT64", "UINT64"}
_MOST_NAMED = 3


@dataclass(frozen=True)
class MatchedClasses:
    """The classes of an ensemble's output, and where its members' outputs have them.

    `labels` may be empty; `columns` are as in `workers.runtime.spec.EnsembleSpec`, empty if the
    members' outputs need no mapping.
    """

    labels: tuple[str, ...] = ()
    columns: tuple[tuple[int, ...], ...] = ()


def ensemble_labels(name: str, ensemble: EnsembleConfig) -> tuple[str, ...]:
    """Return the labels in an ensemble's own file, empty if it has none.

    Raises:
        ConfigError: if the file can't be read.
    """
    path = ensemble.labels
    return () if path is None else read_labels(f"ensembles.{name}.labels", path)


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
        first = chosen[0]
        yield from _input_conflicts(f"ensembles.{name}", chosen)
        yield from shared_size_problems(f"ensembles.{name}", chosen)
        for other in chosen[1:]:
            yield from _disagreements(f"ensembles.{name}", first, other)
        yield from class_problems(name, chosen, ensemble_labels(name, ensemble))
        yield from rule_problems(name, ensemble, first.prediction, first.output.config.kind)
        yield from kind_problems(name, ensemble, chosen)
        yield from predictive_problems(name, ensemble, chosen)
        if ensemble.cascade and not (
            first.output.gives_classes and len(first.prediction.shape) == 1
        ):
            yield f"ensembles.{name}.cascade: needs members that give a probability per class"


def rule_problems(
    name: str, ensemble: EnsembleConfig, prediction: TensorSpec, output: str
) -> Iterator[str]:
    """Yield why a rule can't combine predictions like the first member's, a line each."""
    needs = TRAITS.get(ensemble.rule, CUSTOM).needs
    if needs in {"classes", "probabilities"} and not prediction.shape:
        yield f"ensembles.{name}.rule: {ensemble.rule} needs an output per class"
    if needs == "probabilities" and output == "values":
        yield (
            f"ensembles.{name}.rule: {ensemble.rule} needs members whose "
            f"output is logits or probabilities, not values"
        )


def match_classes(members: Sequence[InspectedMember], own: tuple[str, ...]) -> MatchedClasses:
    """Return the classes of an ensemble, with the labels of its `own` file if it has one.

    `class_problems` must find nothing wrong with it.
    """
    if not _differ(members, own):
        return MatchedClasses(next((one.labels for one in members if one.labels), own))
    labels = own or _union(members)
    positions = [{label: i for i, label in enumerate(one.labels)} for one in members]
    return MatchedClasses(
        labels, tuple(tuple(at.get(one, -1) for one in labels) for at in positions)
    )


def class_problems(
    name: str, members: Sequence[InspectedMember], own: tuple[str, ...]
) -> Iterator[str]:
    """Yield why the classes of an ensemble's members can't be matched, a line each."""
    if not _differ(members, own):
        shapes = dict.fromkeys(member.prediction.shape for member in members)
        if own and len(shapes) == 1 and (len(own),) not in shapes:
            yield (
                f"ensembles.{name}.labels: {len(own)} labels for an output of shape {list(*shapes)}"
            )
        if len(shapes) > 1:
            given = ", ".join(f"{one.name!r} {list(one.prediction.shape)}" for one in members)
            yield f"ensembles.{name}: members disagree on the shape of their output: {given}"
        return
    if repeated := _repeated(own):
        yield f"ensembles.{name}.labels: {repeated!r} is there twice, name each class once"
    for member in members:
        yield from _label_problems(name, member, own)
    known = _union(members)
    if unknown := [label for label in own if label not in known]:
        yield f"ensembles.{name}.labels: no member knows {_listed(unknown)}"
    for member in members:
        missing = [label for label in own or known if label not in member.labels]
        if missing and member.output.gives_numbers and member.labels:
            yield (
                f"ensembles.{name}: {member.name!r} gives values and has none for "
                f"{_listed(missing)}; only a probability can be 0 instead"
            )


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


def _disagreements(where: str, first: InspectedMember, other: InspectedMember) -> Iterator[str]:
    kinds = first.output.config.kind, other.output.config.kind
    are_numbers = first.output.gives_numbers or other.output.gives_numbers
    if kinds[0] != kinds[1] and are_numbers:
        yield (
            f"{where}: members disagree on what their output means: {first.name!r} gives "
            f"{kinds[0]}, {other.name!r} gives {kinds[1]}"
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


def _differ(members: Sequence[InspectedMember], own: tuple[str, ...]) -> bool:
    """Whether classes must be matched by label."""
    given = {member.labels for member in members if member.labels}
    return len(given | {own} if own else given) > 1


def _union(members: Sequence[InspectedMember]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(label for member in members for label in member.labels))


def _label_problems(name: str, member: InspectedMember, own: tuple[str, ...]) -> Iterator[str]:
    if not member.labels:
        yield (
            f"members.{member.name}.labels: are needed, because classes are matched by label in "
            f"ensembles.{name}, where others have different ones"
        )
    elif repeated := _repeated(member.labels):
        yield (
            f"members.{member.name}.labels: {repeated!r} is there twice, so classes can't be "
            f"matched by label in ensembles.{name}"
        )
    elif own and not set(own) & set(member.labels):
        yield f"ensembles.{name}.labels: {member.name!r} knows none of these classes"


def _repeated(labels: Sequence[str]) -> str | None:
    return next((label for label, count in Counter(labels).items() if count > 1), None)


def _listed(labels: Sequence[str]) -> str:
    named = ", ".join(map(repr, labels[:_MOST_NAMED]))
    return named if len(labels) <= _MOST_NAMED else f"{named} and {len(labels) - _MOST_NAMED} more"
