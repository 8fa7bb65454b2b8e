"""How the classes of members' outputs are matched by label.

Used in the supervisor before anything is started; pure, except for reading label files. Outputs
that are to be combined flow in, a line per problem and the classes of the combination flow out.
Outputs with equal labels need no mapping. Otherwise classes are matched by label: those of the
ensemble's own file, or the union of its members' labels in order of first appearance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from server.config import EnsembleConfig
from server.members.inspect import read_labels
from server.members.outputs import MemberOutput
from workers.runtime.spec import COMBINED

__all__ = ["MatchedClasses", "class_problems", "ensemble_labels", "match_classes"]

_MOST_NAMED = 3


@dataclass(frozen=True)
class MatchedClasses:
    """The classes of an ensemble's output, and where its members' outputs have them.

    `labels` may be empty; `columns` are as in `workers.runtime.spec.PredictionSpec`, empty if the
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


def match_classes(outputs: Sequence[MemberOutput], own: tuple[str, ...]) -> MatchedClasses:
    """Return the classes of a combination, with the labels of an `own` file if it has one.

    `class_problems` must find nothing wrong with it.
    """
    if not _differ(outputs, own):
        return MatchedClasses(next((one.labels for one in outputs if one.labels), own))
    labels = own or _union(outputs)
    positions = [{label: i for i, label in enumerate(one.labels)} for one in outputs]
    return MatchedClasses(
        labels, tuple(tuple(at.get(one, -1) for one in labels) for at in positions)
    )


def class_problems(
    name: str, outputs: Sequence[MemberOutput], own: tuple[str, ...]
) -> Iterator[str]:
    """Yield why outputs of an ensemble's members can't be combined class by class, a line each."""
    where, what = f"ensembles.{name}", "their output"
    if outputs[0].name != COMBINED:
        what = f"their output {outputs[0].name!r}"
    if len({(one.class_axis, len(one.prediction.shape)) for one in outputs}) == 1:
        shapes = dict.fromkeys(map(_shape_beside_classes, outputs))
    else:
        shapes = dict.fromkeys(one.prediction.shape for one in outputs)
    if not _differ(outputs, own):
        sizes = dict.fromkeys(one.prediction.shape for one in outputs)
        if own and len(sizes) == 1 and len(own) != _classes(outputs[0]):
            yield f"{where}.labels: {len(own)} labels for an output of shape {list(*sizes)}"
        shapes = shapes if len(shapes) > 1 else sizes
    if len(shapes) > 1:
        given = ", ".join(f"{one.member!r} {list(one.prediction.shape)}" for one in outputs)
        yield f"{where}: members disagree on the shape of {what}: {given}"
    if _differ(outputs, own):
        yield from _matching_problems(name, outputs, own)


def _matching_problems(
    name: str, outputs: Sequence[MemberOutput], own: tuple[str, ...]
) -> Iterator[str]:
    if repeated := _repeated(own):
        yield f"ensembles.{name}.labels: {repeated!r} is there twice, name each class once"
    for output in outputs:
        yield from _label_problems(name, output, own)
    known = _union(outputs)
    if unknown := [label for label in own if label not in known]:
        yield f"ensembles.{name}.labels: no member knows {_listed(unknown)}"
    for output in outputs:
        missing = [label for label in own or known if label not in output.labels]
        if missing and output.gives_numbers and output.labels:
            yield (
                f"ensembles.{name}: {output.member!r} gives values and has none for "
                f"{_listed(missing)}; only a probability can be 0 instead"
            )


def _classes(output: MemberOutput) -> int:
    shape = output.prediction.shape
    return shape[output.class_axis] if len(shape) == 1 or output.gives_classes else 0


def _shape_beside_classes(output: MemberOutput) -> tuple[int, ...]:
    """Return the shape of a prediction without the axis of the classes."""
    shape, axis = list(output.prediction.shape), output.class_axis
    del shape[axis : axis + 1 or None]
    return tuple(shape)


def _differ(outputs: Sequence[MemberOutput], own: tuple[str, ...]) -> bool:
    """Whether classes must be matched by label."""
    given = {output.labels for output in outputs if output.labels}
    return len(given | {own} if own else given) > 1


def _union(outputs: Sequence[MemberOutput]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(label for output in outputs for label in output.labels))


def _label_problems(name: str, output: MemberOutput, own: tuple[str, ...]) -> Iterator[str]:
    where = f"{output.section}.labels"
    if not output.labels:
        yield (
            f"{where}: are needed, because classes are matched by label in "
            f"ensembles.{name}, where others have different ones"
        )
    elif repeated := _repeated(output.labels):
        yield (
            f"{where}: {repeated!r} is there twice, so classes can't be "
            f"matched by label in ensembles.{name}"
        )
    elif own and not set(own) & set(output.labels):
        yield f"ensembles.{name}.labels: {output.member!r} knows none of these classes"


def _repeated(labels: Sequence[str]) -> str | None:
    return next((label for label, count in Counter(labels).items() if count > 1), None)


def _listed(labels: Sequence[str]) -> str:
    named = ", ".join(map(repr, labels[:_MOST_NAMED]))
    return named if len(labels) <= _MOST_NAMED else f"{named} and {len(labels) - _MOST_NAMED} more"
