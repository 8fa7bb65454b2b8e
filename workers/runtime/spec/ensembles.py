"""Specs of ensembles, and of the arenas in which their rows lie.

Used in every process; pure.
"""

from __future__ import annotations

from functools import cached_property

import msgspec

from workers.runtime.spec.models import FileStamp, ModelSource
from workers.runtime.spec.tensors import TensorSpec, symbols_of

__all__ = [
    "ArenaSpec",
    "BlockSpec",
    "COMBINED",
    "EnsembleSpec",
    "PredictionSpec",
    "RuleSpec",
    "VALUE_SCORES",
]

#: The name by which clients can always ask for the main output of a model.
COMBINED = "output"

#: The uncertainty scores of members that predict other values than classes.
VALUE_SCORES = ("variance",)


class BlockSpec(msgspec.Struct, frozen=True):
    """Prediction areas of equal shape and type, adjacent in memory: [areas, slots, *shape].

    There is an area per output of each member. The first outputs have the members' own numbers,
    the further ones follow.
    """

    areas: tuple[int, ...]
    datatype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one area's prediction of one row."""
        return TensorSpec("", self.datatype, self.shape).row_bytes


class PredictionSpec(msgspec.Struct, frozen=True):
    """One of the outputs of an ensemble's members, alike in all that have it.

    Attributes:
        tensor: a member's prediction of one row, in the ensemble's classes, by the clients' name.
        areas: where each of the ensemble's members predicts it, -1 for one that has no such output.
        columns: where the classes of its members differ, per member: for each of the ensemble's
            classes its column in that member's prediction, or -1; empty if all are the same.
        class_axis: the axis of the classes, counted from the end.
    """

    tensor: TensorSpec
    areas: tuple[int, ...]
    columns: tuple[tuple[int, ...], ...] = ()
    class_axis: int = -1


class RuleSpec(msgspec.Struct, frozen=True):
    """A rule of an ensemble, and what it combines.

    Attributes:
        rule: its name, or ``module:function``.
        inputs: what it takes, as indices into the ensemble's predictions; mostly one.
        outputs: what it yields for one row.
        weights: one per member for a weighted rule, else empty.
        options: the built-in rule's further arguments, by name.
        meta: for `stack`, its meta-model.
        directory: for a custom rule, where it is imported from after the installed packages.
        stamps: of a custom rule's file and the modules beside it, as far as they can be found.
    """

    rule: str
    inputs: tuple[int, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[float, ...] = ()
    options: dict[str, float | str] = {}
    meta: ModelSource | None = None
    directory: str = ""
    stamps: tuple[FileStamp, ...] = ()


class EnsembleSpec(msgspec.Struct, frozen=True, dict=True):
    """A combination of members of an arena (also of one member that is addressed by itself).

    Attributes:
        name: of the model that clients address.
        members: indices into the arena's members, in the ensemble's order.
        quorum: the fewest members an answer may rest on.
        predictions: what its members predict, combined or not.
        rules: at least one; the first output of the first one is the main output, which alone is
            computed unless more is requested.
        scores: names of the main output's uncertainty scores (`workers.combiner.scores`).
        stages: of a cascade, the masks of the members that predict up to each stage; else empty.
        thresholds: after each stage but the last, the confidence (the largest probability) with
            which a row leaves the cascade.
    """

    name: str
    members: tuple[int, ...]
    quorum: int
    predictions: tuple[PredictionSpec, ...]
    rules: tuple[RuleSpec, ...]
    scores: tuple[str, ...] = ()
    stages: tuple[int, ...] = ()
    thresholds: tuple[float, ...] = ()

    @cached_property
    def mask(self) -> int:
        """The members as a bit mask."""
        return sum(1 << member for member in self.members)

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The combined answer of one row: the outputs of all rules, the main one first."""
        return tuple(output for rule in self.rules for output in rule.outputs)

    @cached_property
    def output(self) -> TensorSpec:
        """The main output."""
        return self.outputs[0]

    @cached_property
    def main(self) -> PredictionSpec:
        """What the main output is combined from."""
        return self.predictions[self.rules[0].inputs[0]]

    @property
    def predicted(self) -> TensorSpec:
        """A member's prediction of one row that the main output is combined from."""
        return self.main.tensor

    @property
    def rule(self) -> str:
        """The rule of the main output."""
        return self.rules[0].rule

    @property
    def weights(self) -> tuple[float, ...]:
        """The weights of the main output's rule."""
        return self.rules[0].weights

    @cached_property
    def score(self) -> TensorSpec:
        """An uncertainty score of a row: a number, or a map of one per point that has classes."""
        if self.scores in ((), VALUE_SCORES):
            return TensorSpec("", "FP32", ())
        points = self.predicted.without(self.main.class_axis)
        return msgspec.structs.replace(points, datatype="FP32")

    @cached_property
    def areas(self) -> dict[int, tuple[int, PredictionSpec]]:
        """By prediction area the member of the ensemble, by position, and what it predicts."""
        return {
            area: (position, prediction)
            for prediction in self.predictions
            for position, area in enumerate(prediction.areas)
            if area >= 0
        }

    @property
    def needs_all(self) -> bool:
        """Whether one of its rules can combine only all of its members."""
        return any(rule.meta is not None for rule in self.rules)


class ArenaSpec(msgspec.Struct, frozen=True, dict=True):
    """The layout of one input signature's part of the shared memory (see `workers.runtime.arena`).

    Attributes:
        offset: where it begins in its generation's part of the shared memory, in bytes.
        segment_rows: rows of one segment; a range never crosses a segment.
        views: the stored inputs of one row.
        masks: indices of those that are ones where a request does not have them.
        members: names; a member's index is its bit in every mask.
        index: its number in messages, which no other arena of the server ever has.
    """

    offset: int
    segments: int
    segment_rows: int
    views: tuple[TensorSpec, ...]
    members: tuple[str, ...]
    blocks: tuple[BlockSpec, ...]
    ensembles: tuple[EnsembleSpec, ...]
    masks: tuple[int, ...] = ()
    index: int = 0

    @property
    def capacity(self) -> int:
        """Slots in the arena, in rows."""
        return self.segments * self.segment_rows

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """The names of the sizes that each row has for itself, in the order of `Arena.dims`."""
        return symbols_of(self.views)
