"""``GET /metrics``, for Prometheus.

Runs in the front-end.
"""

from __future__ import annotations

from concurrent.futures import Executor

from fastapi import FastAPI, Request
from fastapi.responses import Response

from server.http_api.answers import HttpAnswer, compressed
from server.metrics.registry import MetricsRegistry

__all__ = ["add_metrics_route"]


def add_metrics_route(api: FastAPI, metrics: MetricsRegistry, threads: Executor) -> None:
    """Add it.

    Args:
        api: to which application.
        metrics: what there is to tell.
        threads: where a big answer is compressed.
    """

    @api.get("/metrics")
    async def scrape(request: Request) -> Response:
        """What the server has done and how it does, as Prometheus reads it."""
        body, content_type = await metrics.scrape(request.headers.get("accept", ""))
        answer = HttpAnswer(200, body, [(b"content-type", content_type.encode())])
        answer = await compressed(answer, dict(request.scope["headers"]), threads)
        headers = {name.decode(): value.decode() for name, value in answer.headers}
        return Response(answer.body, answer.status, headers)
