"""What is calibrated: an ensemble with its members, classes, rule and the stages of its cascade.

Runs in the process of the command line, into which a custom rule is imported. A configuration flows
in; a `CalibrationTarget` flows out, or why the ensemble can't be calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from allocator.matrix import AllocationMatrix
from server.calibration.cascade_thresholds import StageAnswers
from server.calibration.metrics import Array, ClassIndices, Floats
from server.config import Config, EnsembleConfig, default_names
from server.deployment.devices import find_devices
from server.deployment.division import profiled_devices
from server.deployment.placement import place, read_allocation, read_matrix
from server.errors import ConfigError, did_you_mean
from server.inference.spec import PredictiveKind
from server.members.agreement import agreement_problems
from server.members.classes import MatchedClasses, ensemble_labels, match_classes
from server.members.combining import planned_rules, shared_outputs
from server.members.files import local_files
from server.members.inspect import InspectedMember, inspect_members
from server.members.predictive import predictive_kind
from server.profiling import Measurements, profile_members
from server.profiling.progress import progress_on_stderr
from server.versions import public_name
from workers.rules import RuleError, is_custom, load_rule
from workers.rules.catalogue import CUSTOM, STACK, TRAITS, Combined
from workers.runtime.spec import COMBINED, RuleSpec, TensorSpec

__all__ = ["CalibrationTarget", "EnsembleRule", "align", "find_target", "stage_order"]

#: A good allocation will do for the few rows there are.
_SEARCH_S = 1.0


@dataclass(frozen=True)
class CalibrationTarget:
    """An ensemble that can be calibrated.

    `classes` are those of its answers, and where members have them. `stages` are those of its
    cascade, or of one that it could have; `order` is where they come from, for people. `directory`
    is that of custom rules; `kind` is what it answers.
    """

    name: str
    config: EnsembleConfig
    members: tuple[InspectedMember, ...]
    classes: MatchedClasses
    stages: tuple[tuple[str, ...], ...]
    order: str
    matrix: AllocationMatrix
    directory: str = ""
    kind: PredictiveKind = "classes"

    @property
    def answer(self) -> TensorSpec:
        """Its answer for a row."""
        if self.kind == "classes":
            return TensorSpec(COMBINED, "FP32", (self.number_of_classes,))
        wide = any(member.prediction.datatype == "FP64" for member in self.members)
        first = self.members[0].output
        taken = [Combined(first.prediction, first.config.kind)]
        shape = TRAITS.get(self.rule, CUSTOM).yields(taken, {})[0].shape
        return TensorSpec(COMBINED, "FP64" if wide else "FP32", shape)

    @property
    def truth_shape(self) -> tuple[int, ...]:
        """The shape of the true numbers of a row."""
        shape = self.answer.shape
        return shape[:-1] if self.kind == "quantiles" else shape

    @property
    def weights(self) -> Floats:
        """Its members' weights, 1 for each if it has none, [members]."""
        return np.array(self.config.weights or [1.0] * len(self.members))

    @property
    def rule(self) -> str:
        """The rule of the main output."""
        return planned_rules(self.config, shared_outputs(self.members))[0].rule

    @property
    def number_of_classes(self) -> int:
        """How many classes its answers have."""
        own: int = self.members[0].prediction.shape[0]
        return len(self.classes.labels) if self.classes.columns else own

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What clients send, an image as pixels."""
        sent = {one.sent.name: one.pixels for member in self.members for one in member.inputs}
        return tuple(sent.values())

    def align(self, predictions: Sequence[Array]) -> Floats:
        """Map members' predictions [rows, own classes] to [members, rows, ensemble's classes]."""
        return align(self.classes, predictions)


def align(classes: MatchedClasses, predictions: Sequence[Array]) -> Floats:
    """Map members' predictions [rows, own classes] to [members, rows, matched classes]."""
    if not classes.columns:
        return np.stack(predictions).astype(np.float64)
    aligned = [
        # One column more, of zeros, for classes that a member does not have: they are -1.
        np.pad(one, ((0, 0), (0, 1)))[:, list(columns)]
        for one, columns in zip(predictions, classes.columns, strict=True)
    ]
    return np.stack(aligned).astype(np.float64)


class EnsembleRule:
    """The combination rule of an ensemble, by the code that the server runs.

    Given weights, it is the weighted mean with these instead.

    Raises:
        ConfigError: if there is no such rule.
    """

    def __init__(self, target: CalibrationTarget, weights: Sequence[float] | None) -> None:
        config = target.config
        self.name = target.rule if weights is None else "weighted_mean"
        self.weights = tuple(weights) if weights is not None else config.weights
        self._names = [member.name for member in target.members]
        self._answer = target.answer
        spec = RuleSpec(
            rule=self.name,
            inputs=(0,),
            outputs=(target.answer,),
            weights=self.weights or (),
            options=config.options(self.name),
            directory=target.directory if is_custom(self.name) else "",
        )
        try:
            self._rule = load_rule(spec, self._names)
        except RuleError as error:
            raise ConfigError(f"ensembles.{target.name}.rule: {error}") from None

    def combine(self, predictions: Array, members: Sequence[str] | None = None) -> Array:
        """Return the answers over some members, [rows, ...], in the type that the server has.

        Predictions [members, rows, ...] are of all members.

        Raises:
            ConfigError: if the rule fails.
        """
        chosen = sorted(map(self._names.index, self._names if members is None else members))
        used = predictions[chosen].astype(self._answer.dtype)
        out = np.empty((used.shape[1], *self._answer.shape), self._answer.dtype)
        try:
            self._rule.for_members(chosen)([used], [out])
        except Exception as error:
            raise ConfigError(f"rule {self.name} fails: {error}") from None
        return out

    def combine_stages(
        self, predictions: Floats, y: ClassIndices, stages: Sequence[Sequence[str]]
    ) -> StageAnswers:
        """Return the answers after each stage of a cascade."""
        asked: list[str] = []
        answers = []
        for stage in stages:
            asked.extend(stage)
            answers.append(self.combine(predictions, asked))
        return StageAnswers(tuple(map(len, stages)), np.stack(answers), y)


def find_target(config: Config, name: str | None) -> CalibrationTarget:
    """Return the ensemble to calibrate, the only one if it is not named.

    Raises:
        ConfigError: if there is no such ensemble, its members don't predict classes, or anything
            else in the configuration is wrong.
        StartError: if a member can't run.
    """
    name = _ensemble_name(config, name)
    config = local_files(config)
    ensemble = config.ensembles[name]
    inspected = {member.name: member for member in inspect_members(config)}
    if problems := list(agreement_problems(config, inspected)):
        raise ConfigError(problems)
    members = tuple(inspected[member] for member in ensemble.members)
    planned = planned_rules(ensemble, shared_outputs(members))[0]
    if planned.rule == STACK:
        raise ConfigError(
            f"ensembles.{name}: its rule is stack, whose meta-model was trained for the members as "
            f"they are: other temperatures or weights would be wrong for it"
        )
    main = planned.combined[0]
    if main.outputs != tuple(member.output for member in members):
        raise ConfigError(
            f"ensembles.{name}: its main output {main.name!r} is not the main output of all its "
            "members, which calibration asks for: list it first among a member's outputs"
        )
    kind = predictive_kind(ensemble, members)
    if kind is None:
        raise ConfigError(
            f"ensembles.{name}: calibration needs members that give classes or numbers, and a rule "
            f"that combines them to the same"
        )
    matrix, measurements = _allocation(config, list(inspected.values()))
    stages, order = stage_order(ensemble, members, measurements)
    classes = match_classes(main.present, ensemble_labels(name, ensemble))
    directory = str(config.directory.absolute())
    return CalibrationTarget(
        name, ensemble, members, classes, stages, order, matrix, directory, kind
    )


def stage_order(
    ensemble: EnsembleConfig, members: Sequence[InspectedMember], measurements: Measurements | None
) -> tuple[tuple[tuple[str, ...], ...], str]:
    """Return the stages of a cascade, and where they come from.

    They are the ensemble's own; or else each member is one, the cheapest first, by measured time,
    or by the size of their weights, or as they are listed.
    """
    if ensemble.cascade is not None:
        return ensemble.cascade, "as configured"
    names = [member.name for member in members]
    sizes = {member.name: float(member.signature.parameter_bytes) for member in members}
    costs, order = dict.fromkeys(names, 0.0), "as they are listed"  # sorting is stable
    if measurements is not None and (seconds := _row_seconds(names, measurements)):
        costs, order = seconds, "by measured time"
    elif all(sizes.values()):
        costs, order = sizes, "by the size of its weights"
    stages = tuple((name,) for name in sorted(names, key=costs.__getitem__))
    return stages, f"each member by itself, {order}"


def _ensemble_name(config: Config, name: str | None) -> str:
    names = list(config.ensembles)
    if name is None:
        public = list(dict.fromkeys(public_name(one).name for one in names))
        if len(public) != 1:
            there = f"there are {', '.join(public)}" if names else "the configuration has none"
            raise ConfigError(f"--ensemble: which ensemble is to be calibrated? {there}")
        name = public[0]
    name = default_names(config).get(name, name)
    if name not in names:
        raise ConfigError(f"--ensemble: there is no ensemble {name!r}{did_you_mean(name, names)}")
    return name


def _allocation(
    config: Config, members: Sequence[InspectedMember]
) -> tuple[AllocationMatrix, Measurements | None]:
    """Where the members run while they predict; nothing is profiled for it."""
    devices = find_devices(config)
    if config.allocation != "auto":
        named = read_matrix(config.allocation).devices
        profiled = profiled_devices(config, devices, named)
        found = profile_members(config, members, profiled, budget_s=0.0)
        return read_allocation(config, devices, found), None
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


def _row_seconds(names: Sequence[str], measurements: Measurements) -> dict[str, float]:
    """Seconds per row on the first kind of device where all members were measured, if any."""
    profiles = measurements.profiles
    for kind in dict.fromkeys(profile.device_kind for profile in profiles):
        seconds = {
            name: min(1 / profile.rows_per_s for profile in profiles.of(name, kind).values())
            for name in names
            if profiles.of(name, kind) and (name, kind) not in measurements.estimated
        }
        if len(seconds) == len(names):
            return seconds
    return {}
