"""How a load process comes to its lanes: by the protocol of its job."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ensembled_client.load.http_lane import HttpLane
from ensembled_client.load.job import Job
from ensembled_client.load.lanes import Lane, LaneMaker, OnEnd

__all__ = ["lane_factory"]

_MOST_CONNECT_S = 10.0


@asynccontextmanager
async def lane_factory(job: Job) -> AsyncIterator[LaneMaker]:
    """What makes the lanes of a job, as long as the block lasts."""
    target = job.target
    connect_s = min(_MOST_CONNECT_S, job.patience_s)
    if target.protocol == "grpc":
        from ensembled_client.load.grpc_lane import grpc_lanes  # noqa: PLC0415  (an extra)

        async with grpc_lanes(target, job.lanes, connect_s, job.patience_s) as make:
            yield make
        return
    tls = ssl.create_default_context() if target.is_secure else None

    def make_http(on_end: OnEnd) -> Lane:
        return HttpLane(target, tls, connect_s, on_end)

    yield make_http
