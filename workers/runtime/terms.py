"""The terms on which a row is answered: one 8-byte cell of the arena, written by the front-end.

Used in the front-end and in the combiner.
"""

from __future__ import annotations

import msgspec

__all__ = ["EARLY", "Terms", "unpack"]

_QUORUM = 0xFF
_SCORES = 1 << 8
#: The bit that says `Terms.early`.
EARLY = 1 << 9
_STAGE_SHIFT = 16
_STAGE = 0xFF


class Terms(msgspec.Struct, frozen=True):
    """How a row may be answered.

    Attributes:
        quorum: the fewest members that its answer may rest on, at least 1.
        scores: whether it is wanted how much the members agree.
        early: whether it may be answered as soon as its best class is certain: the client wants
            that class and nothing else.
        stage: how many stages of the ensemble's cascade are asked so far; 0 if all members are
            asked at once.
    """

    quorum: int
    scores: bool = False
    early: bool = False
    stage: int = 0

    def pack(self) -> int:
        """What the cell holds."""
        cell = self.quorum | self.stage << _STAGE_SHIFT
        return cell | (_SCORES if self.scores else 0) | (EARLY if self.early else 0)


_known: dict[int, Terms] = {}


def unpack(cell: int) -> Terms:
    """What a cell says."""
    terms = _known.get(cell)
    if terms is None:
        terms = _known[cell] = Terms(
            quorum=cell & _QUORUM,
            scores=bool(cell & _SCORES),
            early=bool(cell & EARLY),
            stage=cell >> _STAGE_SHIFT & _STAGE,
        )
    return terms
