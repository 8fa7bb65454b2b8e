"""The engine's configuration: the models that it serves, and how much may wait.

Used in the supervisor, which makes it, and in the front-end.
"""

from __future__ import annotations

import msgspec

from server.versions import ModelName, public_name
from workers.runtime.spec import EnsembleSpec

__all__ = ["QueueLimits", "ServedModel"]


class ServedModel(msgspec.Struct, frozen=True):
    """A model of the protocol: an ensemble, or a member by itself.

    `arena` and `ensemble` are indices, the latter among the arena's ensembles. `deadline_s` is how
    long a request may take by default, 0 for no limit. A model with variable dimensions is served
    by an arena per length class.
    """

    arena: int
    ensemble: int
    spec: EnsembleSpec
    deadline_s: float = 0.0

    @property
    def name(self) -> str:
        """What the server calls it."""
        return self.spec.name

    @property
    def public(self) -> ModelName:
        """What clients call it; several versions of one name may be served."""
        return public_name(self.spec.name)


class QueueLimits(msgspec.Struct, frozen=True):
    """How much may wait.

    `queue_s` is how long what is before a request may take; `waiting_requests` and `waiting_rows`
    bound what waits for slots, per model and priority; `answer_bytes` is for all answers while they
    are assembled.
    """

    queue_s: float
    waiting_requests: int
    waiting_rows: int
    answer_bytes: int
