"""What is calibrated: an ensemble, its members and classes, and in which order they are asked.

Runs in the process of the command line. A configuration flows in, what there is to know before any
prediction flows out, or why the ensemble can't be calibrated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from allocator.matrix import AllocationMatrix
from server.config import Config, EnsembleConfig
from server.config.base import did_you_mean
from server.deployment.allocation_file import read_allocation
from server.deployment.placement import find_devices, place
from server.errors import ConfigError
from server.members.agreement import ClassMap, agreement_problems, ensemble_labels, match_classes
from server.members.inspect import inspect_members
from server.members.member import InspectedMember
from server.profiling import Measurements
from server.profiling.progress import progress_on_stderr
from workers.runtime.spec import TensorSpec

__all__ = ["Subject", "find_subject", "stage_order"]

Array = npt.NDArray[Any]

#: A good allocation will do for the few rows there are.
_SEARCH_S = 1.0


@dataclass(frozen=True)
class Subject:
    """An ensemble that can be calibrated.

    Attributes:
        name: the ensemble's.
        config: its configuration.
        members: in its order.
        classes: of its answers, and where members have them.
        stages: of its cascade, or of one that it could have.
        order: where `stages` comes from, for people.
        matrix: which member runs where.
    """

    name: str
    config: EnsembleConfig
    members: tuple[InspectedMember, ...]
    classes: ClassMap
    stages: tuple[tuple[str, ...], ...]
    order: str
    matrix: AllocationMatrix

    @property
    def number_of_classes(self) -> int:
        """How many classes its answers have."""
        own: int = self.members[0].prediction.shape[0]
        return len(self.classes.labels) if self.classes.columns else own

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What clients send."""
        return self.members[0].client_inputs

    def aligned(self, predictions: Sequence[Array]) -> npt.NDArray[np.float64]:
        """Members' own predictions in the ensemble's classes, [members, rows, classes].

        Args:
            predictions: of each member, [rows, its classes].
        """
        if not self.classes.columns:
            return np.stack(predictions).astype(np.float64)
        found = [
            # One column more, of zeros, for classes that a member does not know: they are -1.
            np.pad(one, ((0, 0), (0, 1)))[:, list(columns)]
            for one, columns in zip(predictions, self.classes.columns, strict=True)
        ]
        return np.stack(found).astype(np.float64)


def find_subject(config: Config, name: str | None) -> Subject:
    """Return the ensemble to calibrate.

    Args:
        config: the configuration.
        name: the ensemble's; None if there is only one.

    Raises:
        ConfigError: if there is no such ensemble, its members don't predict classes, or anything
            else in the configuration is wrong.
        StartError: if a member can't run.
    """
    name = _chosen(config, name)
    ensemble = config.ensembles[name]
    known = {member.name: member for member in inspect_members(config)}
    if problems := list(agreement_problems(config, known)):
        raise ConfigError(problems)
    members = tuple(known[member] for member in ensemble.members)
    if ensemble.rule == "stack":
        raise ConfigError(
            f"ensembles.{name}: its rule is stack, whose meta-model was trained for the members as "
            f"they are: other temperatures or weights would be wrong for it"
        )
    if not members[0].gives_classes or len(members[0].prediction.shape) != 1:
        raise ConfigError(
            f"ensembles.{name}: its members give values, not classes: calibration needs members "
            f"whose output is logits, probabilities or class"
        )
    matrix, found = _placed(config, list(known.values()))
    stages, order = stage_order(ensemble, members, found)
    classes = match_classes(members, ensemble_labels(name, ensemble))
    return Subject(name, ensemble, members, classes, stages, order, matrix)


def stage_order(
    ensemble: EnsembleConfig, members: Sequence[InspectedMember], found: Measurements | None
) -> tuple[tuple[tuple[str, ...], ...], str]:
    """The stages of a cascade, and where they come from.

    They are the ensemble's own; or else each member is one, the cheapest first, by what was
    measured, or by the size of their weights, or as they are listed.
    """
    if ensemble.cascade is not None:
        return ensemble.cascade, "as configured"
    names = [member.name for member in members]
    if found is not None and (seconds := _row_seconds(names, found)):
        return _sorted(names, seconds), "each member by itself, by the time it was measured to take"
    sizes = {member.name: float(member.signature.parameter_bytes) for member in members}
    if all(sizes.values()):
        return _sorted(names, sizes), "each member by itself, by the size of its weights"
    return tuple((name,) for name in names), "each member by itself, as they are listed"


def _chosen(config: Config, name: str | None) -> str:
    names = list(config.ensembles)
    if name is None:
        if len(names) != 1:
            there = f"there are {', '.join(names)}" if names else "the configuration has none"
            raise ConfigError(f"--ensemble: which ensemble is to be calibrated? {there}")
        return names[0]
    if name not in names:
        raise ConfigError(f"--ensemble: there is no ensemble {name!r}{did_you_mean(name, names)}")
    return name


def _placed(
    config: Config, members: Sequence[InspectedMember]
) -> tuple[AllocationMatrix, Measurements | None]:
    """Where the members run while they are asked; nothing is profiled for it."""
    devices = find_devices(config)
    if config.allocation != "auto":
        return read_allocation(config, members, devices), None
    with progress_on_stderr() as on_progress:
        placement = place(
            config,
            members,
            devices,
            profile_s=0.0,
            time_limit_s=min(_SEARCH_S, config.placement.time_limit_s),
            on_progress=on_progress,
        )
    return placement.allocation.matrix, placement.found


def _row_seconds(names: Sequence[str], found: Measurements) -> dict[str, float]:
    """Seconds per row on the first kind of device where all members were measured, if any."""
    estimated = set(found.estimated)
    for kind in dict.fromkeys(one.device_kind for one in found.profiles):
        of_kind = [one for one in found.profiles if one.device_kind == kind]
        seconds = {
            name: min(1 / one.rows_per_s for one in of_kind if one.member == name)
            for name in {one.member for one in of_kind}
            if (name, kind) not in estimated
        }
        if set(names) <= set(seconds):
            return seconds
    return {}


def _sorted(names: Sequence[str], costs: Mapping[str, float]) -> tuple[tuple[str, ...], ...]:
    return tuple((name,) for name in sorted(names, key=lambda name: costs[name]))
