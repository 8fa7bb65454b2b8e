"""The stages of a cascade: which members predict next, and how a row's cells change then.

Runs in the front-end; pure but for the arena's cells. A cascade runs its members stage by stage,
and a row leaves it as soon as the members so far are sure enough; the combiner decides that.
Source: Wang et al., "Wisdom of Committees: An Overlooked Approach To Faster and More Accurate
Models" (ICLR 2022).
"""

from __future__ import annotations

from collections.abc import Sequence

from allocator.dispatch.pending import Range
from server.engine.request import Request
from workers.runtime.arena import Arena, Terms, unpack

__all__ = ["advance", "move_on", "stage_terms"]


def advance(stages: Sequence[int], stage: int, available: int) -> tuple[int, int]:
    """The stage after one, and the members that predict then.

    `stages` are masks of the members up to and including each, `stage` how many have begun. Returns
    how many have begun then, skipping stages of which no member is up, and the mask of the
    additional members: the last stage and no member if none is left.
    """
    requested = stages[stage - 1] if stage else 0
    for reached in range(stage + 1, len(stages) + 1):
        mask = stages[reached - 1] & ~requested & available
        if mask:
            return reached, mask
    return len(stages), 0


def stage_terms(quorum: int, stages: Sequence[int], stage: int, *, outputs: bool = False) -> Terms:
    """The terms after so many stages: the ensemble's quorum, or all members so far, if fewer.

    `outputs`: whether outputs beside the main one are wanted.
    """
    return Terms(min(quorum, stages[stage - 1].bit_count()), stage=stage, outputs=outputs)


def move_on(
    arena: Arena, request: Request, rows: Range, stage: int, available: int
) -> tuple[list[Range], int]:
    """Move those of a request's rows that are at a stage on to the next one.

    Others are past it already, or closed; a repeated message changes nothing. Returns the ranges
    that moved on, and the members that are to predict them; without any, the combiner ends the
    rows.
    """
    stages = request.model.spec.stages
    reached, mask = advance(stages, stage, available)
    outputs = request.admission.terms.outputs
    cell = stage_terms(request.admission.quorum, stages, reached, outputs=outputs).pack()
    terms, expected, closing = arena.terms.data, arena.expected.data, arena.closing.data
    ranges: list[Range] = []
    for row in range(*rows):
        slot = row % arena.capacity
        if unpack(terms[slot]).stage != stage or closing[slot] == row:
            continue
        expected[slot] |= mask
        terms[slot] = cell  # after `expected`: the combiner reads them in the other order
        if ranges and ranges[-1][1] == row:
            ranges[-1] = (ranges[-1][0], row + 1)
        else:
            ranges.append((row, row + 1))
    return ranges, mask
