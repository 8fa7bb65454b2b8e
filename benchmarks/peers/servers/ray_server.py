"""Ray Serve: replicas that each run all members on what has come, raw bytes in and out.

``python -m benchmarks.peers.servers.ray_server``, in Ray's environment. One deployment, since one
per member takes several times as long.
"""

from __future__ import annotations

import os
import signal
import tempfile

import numpy as np

_SCRATCH = tempfile.gettempdir()
os.environ |= {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",  # HAProxy, which comes with it, does six times its own proxy
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{_SCRATCH}/haproxy/haproxy.cfg",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{_SCRATCH}/haproxy/metrics.sock",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{_SCRATCH}/haproxy/admin.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": f"{_SCRATCH}/haproxy",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{_SCRATCH}/haproxy/server-state",
    "RAY_TMPDIR": _SCRATCH,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}

import ray  # noqa: E402 (it reads the variables above)
from ray import serve  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import Response  # noqa: E402

from benchmarks.peers.servers.fused import Fused, Rows  # noqa: E402
from benchmarks.peers.servers.task import Task  # noqa: E402

__all__ = ["Ensemble", "main"]

_TASK = Task.read()


class Ensemble:
    """One process with all members."""

    def __init__(self) -> None:
        self._members = Fused(_TASK)

    @serve.batch(max_batch_size=_TASK.batch, batch_wait_timeout_s=_TASK.wait_ms / 1e3)  # type: ignore[untyped-decorator]
    async def predict(self, rows: list[Rows]) -> list[Rows]:
        """Answer a batch."""
        return list(self._members.predict(np.stack(rows)))

    async def __call__(self, request: Request) -> Response:
        """Answer a request."""
        answer = await self.predict(self._members.row(await request.body()))
        return Response(answer.tobytes(), media_type="application/octet-stream")


def main() -> None:
    """Serve until a signal."""
    ray.init(num_cpus=_TASK.workers, include_dashboard=False, log_to_driver=False)
    serve.start(
        http_options={"host": "127.0.0.1", "port": _TASK.port, "access_log": False},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    deployment = serve.deployment(
        Ensemble,
        num_replicas=_TASK.workers,
        max_ongoing_requests=4 * _TASK.batch,
        ray_actor_options={"num_cpus": 0},
    )
    serve.run(deployment.bind())
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
