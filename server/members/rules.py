"""The rules of a configuration that are more than a name: meta-models and users' functions.

Runs in the supervisor before anything is started. Ensembles and inspected members flow in, what
the rules yield and a line per problem flow out. Meta-models are inspected, and users' rules tried,
in child processes as members are, so that no request is the first to find them broken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from server.config import Config, EnsembleConfig
from server.errors import ConfigError
from server.members.agreement import agreement_problems
from server.members.classes import ensemble_labels, match_classes
from server.members.combining import PlannedRule, planned_rules, shared_outputs
from server.members.ensembles import RuleFinding, RuleFindings, combined_tensor
from server.members.inspect import InspectedMember
from server.members.probes import EACH_TIME, Probes
from workers.backends.files import code_stamps, stamped
from workers.backends.inspection import InspectionError
from workers.rules import is_custom
from workers.rules.catalogue import STACK
from workers.rules.combination import meta_inputs
from workers.rules.trial import Trial
from workers.runtime.spec import ModelSignature, ModelSource, RuleSpec, TensorSpec

__all__ = ["inspect_rules", "meta_output", "meta_problems"]

_META_INPUTS = ("FP16", "FP32", "FP64")
#: How a member's output is chosen, and how that of a meta-model, of which there is one.
_CHOICES = {"output_name": "meta_output", " (or serve several of them: outputs)": ""}
_WIDE = ("FP64", "INT32", "INT64", "UINT32", "UINT64")


def inspect_rules(
    config: Config, members: Sequence[InspectedMember], probes: Probes = EACH_TIME
) -> RuleFindings:
    """Return what rules that are more than a name yield; meta-models are inspected, rules tried.

    Raises:
        ConfigError: if a meta-model or a rule can't be used, or members disagree.
    """
    if not any(rule == STACK or is_custom(rule) for rule in _rules(config)):
        return {}
    by_name = {member.name: member for member in members}
    if problems := list(agreement_problems(config, by_name)):
        raise ConfigError(problems)
    found: dict[tuple[str, str], RuleFinding] = {}
    trials: dict[tuple[str, str], Trial] = {}
    for name, ensemble in config.ensembles.items():
        shared = shared_outputs([by_name[member] for member in ensemble.members])
        for planned in planned_rules(ensemble, shared):
            key = name, planned.combined[0].name
            if is_custom(planned.rule):
                trials[key] = _trial(config, name, planned)
            elif planned.rule == STACK:
                predicted = _predicted(config, name, planned)
                finding, faults = _inspect_meta(name, ensemble, predicted, probes)
                problems += faults
                found[key] = finding
    tries = probes.try_rules([*trials.values()])
    for (key, trial), tried in zip(trials.items(), tries, strict=True):
        found[key] = RuleFinding(tried.outputs, stamps=trial.rule.stamps)
        if tried.problem:
            problems.append(f"ensembles.{key[0]}.rule: {trial.rule.rule}: {tried.problem}")
    if problems:
        raise ConfigError(problems)
    return found


def _rules(config: Config) -> list[str]:
    return [rule for ensemble in config.ensembles.values() for rule in ensemble.rules]


def _inspect_meta(
    name: str, ensemble: EnsembleConfig, predicted: TensorSpec, probes: Probes
) -> tuple[RuleFinding, list[str]]:
    """Return what an ensemble's meta-model yields, and a line per problem."""
    chosen = (ensemble.meta_output,) if ensemble.meta_output else ()
    source = stamped(ModelSource("meta", "onnx", str(ensemble.meta), outputs=chosen))
    try:
        (signature,) = probes.inspect_models([source])
    except InspectionError as error:
        prefix = f"member {source.member} ({source.path}): "
        lines = [f"ensembles.{name}.meta: {one.removeprefix(prefix)}" for one in error.messages]
        for own, key in _CHOICES.items():
            lines = [line.replace(own, key) for line in lines]
        return RuleFinding(()), lines
    problems = list(meta_problems(name, len(ensemble.members), predicted, signature))
    return RuleFinding((meta_output(predicted.name, signature),), source), problems


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


def meta_output(name: str, signature: ModelSignature) -> TensorSpec:
    """Return the answer for a row of an ensemble with this meta-model, as an output of a name."""
    output = signature.output
    return TensorSpec(name, "FP64" if output.datatype in _WIDE else "FP32", output.shape)


def _trial(config: Config, name: str, planned: PlannedRule) -> Trial:
    ensemble = config.ensembles[name]
    directory = str(config.directory.absolute())
    rule = RuleSpec(
        planned.rule,
        (0,),
        (),
        ensemble.weights or (),
        directory=directory,
        stamps=code_stamps(planned.rule, directory),
    )
    return Trial(
        rule=rule,
        members=ensemble.members,
        predicted=_predicted(config, name, planned),
        are_probabilities=planned.combined[0].present[0].gives_classes,
        fewest=ensemble.required_members,
    )


def _predicted(config: Config, name: str, planned: PlannedRule) -> TensorSpec:
    """One member's prediction of one row, in the ensemble's classes."""
    outputs = planned.combined[0].present
    classes = match_classes(outputs, ensemble_labels(name, config.ensembles[name]))
    stored = [output.prediction for output in outputs]
    return combined_tensor(stored, classes, outputs[0].class_axis)
