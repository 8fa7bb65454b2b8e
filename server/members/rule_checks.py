"""What a combination rule needs of its ensemble; pure.

Runs in the supervisor before anything is started. An ensemble's configuration and what its members
predict flow in, one line per problem flows out. What is said of the configuration alone is checked
where that is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from server.config import EnsembleConfig
from workers.rules.catalogue import CUSTOM, TRAITS
from workers.rules.stacking import meta_inputs
from workers.runtime.spec import ModelSignature, ModelSource, TensorSpec

__all__ = ["MetaModel", "meta_output", "meta_problems", "rule_problems"]

_FLOATS = ("FP16", "FP32", "FP64")
_WIDE = ("FP64", "INT32", "INT64", "UINT32", "UINT64")


@dataclass(frozen=True)
class MetaModel:
    """What an ensemble stacks with."""

    source: ModelSource
    signature: ModelSignature


def rule_problems(
    name: str, ensemble: EnsembleConfig, predicted: TensorSpec, meaning: str
) -> Iterator[str]:
    """Say why an ensemble's rule can't combine what its members predict.

    Args:
        name: of the ensemble.
        ensemble: its configuration, in itself valid.
        predicted: a member's prediction of one row, as the first of them gives it.
        meaning: what that says its output is.
    """
    needs = TRAITS.get(ensemble.rule, CUSTOM).needs
    if needs != "anything" and not predicted.shape:
        yield f"ensembles.{name}.rule: {ensemble.rule} needs an output per class"
    if needs == "probabilities" and meaning == "values":
        yield (
            f"ensembles.{name}.rule: {ensemble.rule} needs members whose "
            f"output is logits or probabilities, not values"
        )


def meta_problems(
    name: str, members: int, predicted: TensorSpec, signature: ModelSignature
) -> Iterator[str]:
    """Say why a meta-model does not fit its ensemble.

    Args:
        name: of the ensemble.
        members: how many it has.
        predicted: a member's prediction of one row.
        signature: of the meta-model.
    """
    where, inputs = f"ensembles.{name}.meta", signature.inputs
    flat, each = meta_inputs(members, predicted.shape)
    if len(inputs) != 1 or inputs[0].shape not in (flat, each) or inputs[0].datatype not in _FLOATS:
        given = ", ".join(f"{one.name} {one.datatype} {list(one.shape)}" for one in inputs)
        wanted = f"{list(flat)}" if flat == each else f"{list(flat)} or {list(each)}"
        yield f"{where}: the model takes {given}, not one float input {wanted} per row"
    if signature.output.datatype == "BOOL":
        yield f"{where}: the model's output is BOOL, not numbers"


def meta_output(signature: ModelSignature) -> TensorSpec:
    """What an ensemble answers for a row, whose meta-model this is."""
    output = signature.output
    return TensorSpec("output", "FP64" if output.datatype in _WIDE else "FP32", output.shape)
