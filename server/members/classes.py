"""Which classes an ensemble answers with, and where each member's output has them.

Runs in the supervisor before anything is started; pure, but for `read_labels`. Members whose labels
agree need no map. Else classes are matched by label: the ensemble's are those of its own file, or
all that its members know, in the order in which they are first named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.errors import ConfigError
from server.members.member import KnownMember

__all__ = ["Classes", "class_problems", "classes_of", "read_labels"]

_MOST_NAMED = 3


@dataclass(frozen=True)
class Classes:
    """What the elements of an ensemble's output stand for.

    Attributes:
        labels: one per element, empty if they have none.
        columns: as in `workers.runtime.spec.EnsembleSpec`, empty if the members' outputs are as
        they are.
    """

    labels: tuple[str, ...] = ()
    columns: tuple[tuple[int, ...], ...] = ()


def read_labels(where: str, path: Path) -> tuple[str, ...]:
    """Return the labels in a file, one per line, without the spaces around them.

    Raises:
        ConfigError: if it can't be read; `where` is the key that names it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: {path}: {error}") from None
    return tuple(line.strip() for line in lines)


def classes_of(members: Sequence[KnownMember], own: tuple[str, ...]) -> Classes:
    """Return the classes of an ensemble in which `class_problems` finds nothing wrong.

    Args:
        members: in the ensemble's order.
        own: the labels that the ensemble itself was given, may be empty.
    """
    labels = own or tuple(dict.fromkeys(label for one in members for label in one.labels))
    if not _differ(members, own):
        given = [member.labels for member in members if member.labels]
        return Classes(given[0] if given else own)
    positions = [{label: i for i, label in enumerate(one.labels)} for one in members]
    return Classes(labels, tuple(tuple(at.get(one, -1) for one in labels) for at in positions))


def class_problems(
    name: str, members: Sequence[KnownMember], own: tuple[str, ...]
) -> Iterator[str]:
    """Say why the classes of an ensemble's members can't be matched, a line each.

    Args:
        name: the ensemble's.
        members: in the ensemble's order.
        own: the labels that the ensemble itself was given, may be empty.
    """
    shapes = dict.fromkeys(member.prediction.shape for member in members)
    if not _differ(members, own):
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
        yield from _member_problems(name, member, own)
    known = {label for member in members for label in member.labels}
    if unknown := [label for label in own if label not in known]:
        yield f"ensembles.{name}.labels: no member knows {_listed(unknown)}"
    wanted = own or tuple(dict.fromkeys(label for one in members for label in one.labels))
    for member in members:
        missing = [label for label in wanted if label not in member.labels]
        if missing and member.config.output == "values" and member.labels:
            yield (
                f"ensembles.{name}: {member.name!r} gives values and has none for "
                f"{_listed(missing)}; only a probability can be 0 instead"
            )


def _differ(members: Sequence[KnownMember], own: tuple[str, ...]) -> bool:
    """Whether classes must be matched by label."""
    given = {member.labels for member in members if member.labels}
    return len(given | {own} if own else given) > 1


def _member_problems(name: str, member: KnownMember, own: tuple[str, ...]) -> Iterator[str]:
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
