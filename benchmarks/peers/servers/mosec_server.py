"""Mosec: a front in Rust; workers that run all members on what has come, raw bytes in and out.

``python -m benchmarks.peers.servers.mosec_server``, in Mosec's environment.
"""

from __future__ import annotations

import os

import numpy as np
from mosec import Server, Worker

from benchmarks.peers.servers.fused import Fused, Rows
from benchmarks.peers.servers.task import Task

__all__ = ["main"]


class Ensemble(Worker):  # type: ignore[misc]
    """One process with all members."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        self._task = Task.read()
        self._members = Fused(self._task)

    def deserialize(self, data: bytes) -> Rows:
        """Take a row."""
        return self._members.row(data)

    def forward(self, data: list[Rows]) -> list[Rows]:
        """Answer a batch."""
        return list(self._members.predict(np.stack(data)))

    def serialize(self, data: Rows) -> bytes:
        """Give an answer."""
        return data.tobytes()


def main() -> None:
    """Serve until a signal."""
    task = Task.read()
    os.environ |= {
        "MOSEC_ADDRESS": "127.0.0.1",
        "MOSEC_PORT": str(task.port),
        "MOSEC_TIMEOUT": "60000",
        "MOSEC_LOG_LEVEL": "warning",
    }
    server = Server()
    server.append_worker(
        Ensemble, num=task.workers, max_batch_size=task.batch, max_wait_time=task.wait_ms
    )
    server.run()


if __name__ == "__main__":
    main()
