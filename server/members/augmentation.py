"""The test-time augmentation of members: what of it fits a model, and what the worker does.

Runs in the supervisor before anything is started. Inspected members flow in; the worker's specs,
and a line per problem, flow out. Functions of the user are tried in child processes, so that no
request is the first to find them broken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from server.config import Config
from server.config.augmentation import is_function, variants
from server.errors import ConfigError
from server.members.inspect import InspectedMember
from server.members.outputs import MemberOutput
from server.members.probes import EACH_TIME, Probes
from workers.backends.files import code_stamps
from workers.runtime.python_files import python_file
from workers.runtime.spec import AugmentationSpec, TensorSpec, Variant
from workers.worker.augmentation import AugmentationTrial

__all__ = ["AUGMENTATION_VARIANCE", "augmentation_of", "augmentation_problems", "try_functions"]

#: The variance of a member's main output over a row's variants.
AUGMENTATION_VARIANCE = TensorSpec("augmentation_variance", "FP32", ())

_KINDS = ("logits", "probabilities", "binary", "binary_logits", "class", "values")
#: Rules over the last axis.
_CLASS_RULES = ("vote", "geometric_mean")
#: A last dimension as small as this is one of channels, if the first one is larger.
_MOST_CHANNELS = 4


def augmentation_of(
    config: Config, member: InspectedMember, variance_area: int
) -> AugmentationSpec | None:
    """Return a member's augmentation, whose variance goes into an area; None if it has none."""
    if member.config.augment is None:
        return None
    margin = member.config.margin
    made = [one for entry in member.config.augment for one in variants(entry, margin)]
    chosen = tuple(_with_absolute_path(config, one) for one in made)
    directory = str(config.directory.absolute())
    functions = dict.fromkeys(one.function for one in chosen if one.function)
    return AugmentationSpec(
        variants=chosen,
        input=_varied(member) or 0,
        margin=margin,
        rule=member.config.augment_rule,
        directory=directory,
        variance_area=variance_area,
        stamps=tuple(stamp for one in functions for stamp in code_stamps(one, directory)),
    )


def _with_absolute_path(config: Config, variant: Variant) -> Variant:
    where, _, name = variant.function.rpartition(":")
    if not where.endswith(".py"):
        return variant
    return Variant(function=f"{python_file(where, config.directory.absolute())}:{name}")


def _varied(member: InspectedMember) -> int | None:
    """The input that varies: the image, or the only one; None if there is neither."""
    inputs = member.inputs
    images = [position for position, one in enumerate(inputs) if one.image is not None]
    if images or len(inputs) == 1:
        return images[0] if images else 0
    return None


def augmentation_problems(member: InspectedMember) -> Iterator[str]:
    """Yield why a member can't augment as configured, a line each."""
    augment, key = member.config.augment, f"members.{member.name}.augment"
    if augment is None:
        return
    moves = [one for one in augment if not is_function(one) and one != "identity"]
    yield from _input_problems(key, member, moves=bool(moves), calls=_calls(augment))
    for output in member.outputs:
        yield from _output_problems(key, output, moves, member.config.augment_rule)


def _input_problems(
    key: str, member: InspectedMember, *, moves: bool, calls: bool
) -> Iterator[str]:
    position = _varied(member)
    variable = [one.sent for one in member.inputs if one.sent.symbols and one.image is None]
    if position is None:
        names = ", ".join(one.sent.name for one in member.inputs)
        yield f"{key}: which of the inputs varies? It is the image, or the only one, not {names}"
    elif variable:
        given = ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in variable)
        yield f"{key}: is for inputs of fixed sizes, not {given}"
    elif member.inputs[position].image is None:
        yield from _tensor_problems(key, member.inputs[position].sent, moves=moves, calls=calls)


def _output_problems(
    key: str, output: MemberOutput, moves: Sequence[object], rule: str
) -> Iterator[str]:
    if output.config.kind not in _KINDS:
        yield f"{key}: an output of kind {output.config.kind} can't be combined over variants"
    elif output.config.max_shape is not None:
        yield f"{key}: the items of output {output.name!r} differ from variant to variant"
    elif len(output.prediction.shape) > 1:
        yield from _map_problems(key, output, moves)
    if rule in _CLASS_RULES and not (output.gives_classes and output.class_axis == -1):
        yield (
            f"{key}_rule: {rule} needs a probability per class on the last axis, which output "
            f"{output.name!r} does not have"
        )


def _map_problems(key: str, output: MemberOutput, moves: Sequence[object]) -> Iterator[str]:
    """An output that shows where something is moves with its input; mirrored maps are known."""
    is_known = output.class_axis < -1
    if [one for one in moves if not (one == "hflip" and is_known)]:
        more = ", hflip" if is_known else ""
        yield (
            f"{key}: the output {output.name!r} {list(output.prediction.shape)} moves with what is "
            f"moved: only identity{more} and functions fit it"
            + ("" if is_known else " (and hflip, for maps of classes with class_axis)")
        )


def _calls(augment: Sequence[object]) -> bool:
    return any(isinstance(one, str) and is_function(one) for one in augment)


def _tensor_problems(key: str, sent: TensorSpec, *, moves: bool, calls: bool) -> Iterator[str]:
    given = f"{sent.name} {sent.datatype} {list(sent.shape)}"
    if calls and sent.datatype == "BF16":
        yield f"{key}: functions take numbers that NumPy has, not {given}"
    if moves and len(sent.shape) != 3:
        yield f"{key}: only [channels, height, width] can be moved or mirrored, not {given}"
    elif moves and sent.shape[2] <= _MOST_CHANNELS < sent.shape[0]:
        yield (
            f"{key}: a tensor is moved or mirrored as [channels, height, width], but {given} seems "
            "to have its channels last: use a function, or let clients send an image"
        )


def try_functions(
    config: Config, members: Sequence[InspectedMember], probes: Probes = EACH_TIME
) -> None:
    """Call the functions of all members on random rows.

    Raises:
        ConfigError: if one can't be imported, fails, or returns something else than such rows.
    """
    chosen = [member for member in members if _calls(member.config.augment or ())]
    if problems := [line for member in chosen for line in augmentation_problems(member)]:
        raise ConfigError(problems)
    found = probes.try_augmentations([_trial(config, member) for member in chosen])
    if problems := [
        f"members.{member.name}.augment: {problem}"
        for member, problem in zip(chosen, found, strict=True)
        if problem
    ]:
        raise ConfigError(problems)


def _trial(config: Config, member: InspectedMember) -> AugmentationTrial:
    augmentation = augmentation_of(config, member, -1)
    assert augmentation is not None
    one = member.inputs[augmentation.input]
    return AugmentationTrial(member.name, augmentation, one.view, one.image is not None)
