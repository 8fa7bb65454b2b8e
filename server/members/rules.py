"""The rules of a configuration that are more than a name: meta-models and users' functions.

Runs in the supervisor before anything is started. Ensembles and inspected members flow in,
meta-models and a line per problem flow out. Meta-models are inspected, and users' rules tried, in
child processes as members are, so that no request is the first to find them broken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from server.config import Config, EnsembleConfig
from server.errors import ConfigError
from server.members.agreement import agreement_problems, ensemble_labels, match_classes
from server.members.inspect import InspectedMember
from workers.backends.files import stamped
from workers.backends.inspection import InspectionError, inspect_models
from workers.rules import is_custom
from workers.rules.combination import meta_inputs
from workers.rules.trial import Trial, try_rules
from workers.runtime.spec import ModelSignature, ModelSource, TensorSpec

__all__ = ["MetaModel", "inspect_rules", "meta_output", "meta_problems"]

_META_INPUTS = ("FP16", "FP32", "FP64")
_WIDE = ("FP64", "INT32", "INT64", "UINT32", "UINT64")


@dataclass(frozen=True)
class MetaModel:
    """The model with which an ensemble stacks its members."""

    source: ModelSource
    signature: ModelSignature


def inspect_rules(config: Config, members: Sequence[InspectedMember]) -> dict[str, MetaModel]:
    """Return the meta-models of stacking ensembles, by ensemble; try all users' rules.

    Raises:
        ConfigError: if a meta-model or a rule can't be used, or members disagree.
    """
    by_name = {member.name: member for member in members}
    stacks = {name: one for name, one in config.ensembles.items() if one.meta is not None}
    custom = {name: one for name, one in config.ensembles.items() if is_custom(one.rule)}
    if not stacks and not custom:
        return {}
    if problems := list(agreement_problems(config, by_name)):
        raise ConfigError(problems)
    trials = [_trial(config, name, by_name) for name in custom]
    problems = [
        f"ensembles.{name}.rule: {one.rule}: {problem}"
        for (name, one), problem in zip(custom.items(), try_rules(trials), strict=True)
        if problem
    ]
    metas: dict[str, MetaModel] = {}
    for name, ensemble in stacks.items():
        chosen = (ensemble.meta_output,) if ensemble.meta_output else ()
        source = stamped(ModelSource("meta", "onnx", str(ensemble.meta), outputs=chosen))
        try:
            (signature,) = inspect_models([source])
        except InspectionError as error:
            prefix = f"member {source.member} ({source.path}): "
            problems += [
                f"ensembles.{name}.meta: {line.removeprefix(prefix)}" for line in error.messages
            ]
            continue
        prediction = _prediction(name, ensemble, by_name)
        problems += meta_problems(name, len(ensemble.members), prediction, signature)
        metas[name] = MetaModel(source, signature)
    if problems:
        raise ConfigError(problems)
    return metas


def meta_problems(
    name: str, members: int, prediction: TensorSpec, signature: ModelSignature
) -> Iterator[str]:
    """Yield why a meta-model does not fit so many members' predictions of a row, a line each."""
    where, inputs = f"ensembles.{name}.meta", signature.inputs
    flat, each = meta_inputs(members, prediction.shape)
    is_one_float = len(inputs) == 1 and inputs[0].datatype in _META_INPUTS
    if not is_one_float or inputs[0].shape not in (flat, each):
        given = ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in inputs)
        wanted = f"{list(flat)}" if flat == each else f"{list(flat)} or {list(each)}"
        yield f"{where}: the model takes {given}, not one float input {wanted} per row"
    if signature.output.datatype == "BOOL":
        yield f"{where}: the model's output is BOOL, not numbers"


def meta_output(signature: ModelSignature) -> TensorSpec:
    """Return the answer for a row of an ensemble with this meta-model."""
    output = signature.output
    return TensorSpec("output", "FP64" if output.datatype in _WIDE else "FP32", output.shape)


def _trial(config: Config, name: str, by_name: Mapping[str, InspectedMember]) -> Trial:
    ensemble = config.ensembles[name]
    return Trial(
        rule=ensemble.rule,
        directory=str(config.directory.absolute()),
        members=ensemble.members,
        weights=ensemble.weights or (1.0,) * len(ensemble.members),
        predicted=_prediction(name, ensemble, by_name),
        are_probabilities=by_name[ensemble.members[0]].output.gives_classes,
        fewest=ensemble.required_members,
    )


def _prediction(
    name: str, ensemble: EnsembleConfig, by_name: Mapping[str, InspectedMember]
) -> TensorSpec:
    """One member's prediction of one row, in the ensemble's classes."""
    chosen = [by_name[member] for member in ensemble.members]
    classes = match_classes(chosen, ensemble_labels(name, ensemble))
    shape = (len(classes.labels),) if classes.columns else chosen[0].prediction.shape
    wide = any(member.prediction.datatype == "FP64" for member in chosen)
    return TensorSpec("output", "FP64" if wide else "FP32", shape)
