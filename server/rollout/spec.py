"""Roll-outs as the front-end is told of them: a new version of a model, and what it is to get.

Made in the supervisor from the configuration, used in the front-end; pure.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Limits", "RolloutSpec"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """When a roll-out is over by itself; a limit that is None is not looked at.

    Attributes:
        after_requests: nothing is decided before the new version has had so many.
        max_disagreement: share of its answers that may differ from those of the present version.
        max_error_rate: share of its requests that may fail.
        max_latency_ratio: how many times as long as the present version it may take.
    """

    after_requests: int
    max_disagreement: float | None = None
    max_error_rate: float | None = None
    max_latency_ratio: float | None = None


class RolloutSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A new version of a model beside the present one.

    Attributes:
        model: its name.
        version: the new one.
        mode: whether it gets copies of requests, and answers nobody, or answers some of them.
        percent: the share of the requests without a version that it gets, 0 to 100.
        sticky: what requests have in common that always get the same version.
        header: whose value that is, in lower case, if `sticky` is a header.
        tolerance: by how much numbers may differ that agree, see `server.rollout.agreement`.
        promote: within which limits it becomes the present one; None for by hand alone.
        rollback: beyond which limits it goes.
    """

    model: str
    version: str
    mode: Literal["shadow", "canary"]
    percent: float
    sticky: Literal["none", "request_id", "header"] = "none"
    header: str = ""
    tolerance: float = 0.001
    promote: Limits | None = None
    rollback: Limits | None = None
