"""The engine's configuration: the models that it serves, and how much may wait.

Used in the supervisor, which makes it, and in the front-end.
"""

from __future__ import annotations

import msgspec

from workers.runtime.spec import EnsembleSpec

__all__ = ["QueueLimits", "ServedModel"]


class ServedModel(msgspec.Struct, frozen=True):
    """A model of the protocol: an ensemble, or a member by itself.

    Attributes:
        arena: index of its arena.
        ensemble: its index among the arena's ensembles.
        spec: its members, rule and quorum.
        deadline_s: how long a request may take by default, 0 for no limit.
    """

    arena: int
    ensemble: int
    spec: EnsembleSpec
    deadline_s: float = 0.0

    @property
    def name(self) -> str:
        """The name that clients use."""
        return self.spec.name


class QueueLimits(msgspec.Struct, frozen=True):
    """How much may wait.

    Attributes:
        queue_s: how long what is before a request may take, seconds.
        waiting_requests: how many of a model and a priority may wait for slots of the arena.
        waiting_rows: how many rows these may have together.
        answer_bytes: what all answers may hold while they are assembled.
    """

    queue_s: float
    waiting_requests: int
    waiting_rows: int
    answer_bytes: int
