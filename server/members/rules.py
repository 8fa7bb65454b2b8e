"""The rules of a configuration that are more than a name: meta-models and users' own functions.

Runs in the supervisor before anything is started. Meta-models are inspected and users' rules are
tried, in child processes, as members are; so nothing of theirs is first found wrong by a request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from server.config import Config, EnsembleConfig
from server.errors import ConfigError
from server.members.agreement import own_labels, problems_of
from server.members.classes import classes_of
from server.members.member import KnownMember
from server.members.rule_checks import MetaModel, meta_problems
from workers.backends.inspection import InspectionError, inspect_models
from workers.rules import is_custom
from workers.rules.trial import Trial, try_rules
from workers.runtime.spec import ModelSignature, ModelSource, TensorSpec

__all__ = ["know_rules"]


def know_rules(config: Config, members: Sequence[KnownMember]) -> dict[str, MetaModel]:
    """Return the meta-models of the ensembles that stack, by ensemble; try all users' own rules.

    Args:
        config: the configuration.
        members: all of its members.

    Raises:
        ConfigError: if a meta-model or a rule can't be used, or members disagree.
    """
    known = {member.name: member for member in members}
    stacks = {name: one for name, one in config.ensembles.items() if one.meta is not None}
    own = {name: one for name, one in config.ensembles.items() if is_custom(one.rule)}
    if not stacks and not own:
        return {}
    if problems := list(problems_of(config, known)):
        raise ConfigError(problems)
    trials = [_trial(config, name, known) for name in own]
    problems = [
        f"ensembles.{name}.rule: {one.rule}: {problem}"
        for (name, one), problem in zip(own.items(), try_rules(trials), strict=True)
        if problem
    ]
    metas: dict[str, MetaModel] = {}
    for name, ensemble in stacks.items():
        source = _source(ensemble)
        try:
            signature = _inspect(source)
        except InspectionError as error:
            problems += [f"ensembles.{name}.meta: {line}" for line in _lines(error, source)]
            continue
        predicted = _predicted(name, ensemble, known)
        problems += meta_problems(name, len(ensemble.members), predicted, signature)
        metas[name] = MetaModel(source, signature)
    if problems:
        raise ConfigError(problems)
    return metas


def _source(ensemble: EnsembleConfig) -> ModelSource:
    return ModelSource(
        member="meta",
        backend="onnx",
        path=str(ensemble.meta),
        output_name=ensemble.meta_output or "",
    )


def _inspect(source: ModelSource) -> ModelSignature:
    (signature,) = inspect_models([source])
    return signature


def _lines(error: InspectionError, source: ModelSource) -> Iterator[str]:
    """What inspection says of a member, said of a meta-model."""
    for line in error.messages:
        yield line.removeprefix(f"member {source.member} ({source.path}): ")


def _trial(config: Config, name: str, known: Mapping[str, KnownMember]) -> Trial:
    ensemble = config.ensembles[name]
    return Trial(
        rule=ensemble.rule,
        directory=str(Path(config.directory).absolute()),
        members=ensemble.members,
        weights=ensemble.weights or (1.0,) * len(ensemble.members),
        predicted=_predicted(name, ensemble, known),
        are_probabilities=known[ensemble.members[0]].config.output != "values",
        fewest=ensemble.required_members,
    )


def _predicted(name: str, ensemble: EnsembleConfig, known: Mapping[str, KnownMember]) -> TensorSpec:
    """One member's prediction of one row, in the ensemble's classes."""
    chosen = [known[member] for member in ensemble.members]
    classes = classes_of(chosen, own_labels(name, ensemble))
    shape = (len(classes.labels),) if classes.columns else chosen[0].prediction.shape
    wide = any(member.prediction.datatype == "FP64" for member in chosen)
    return TensorSpec("output", "FP64" if wide else "FP32", shape)
