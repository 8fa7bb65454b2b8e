"""LitServe: FastAPI before workers that run all members on what has come, raw bytes in and out.

``python -m benchmarks.peers.servers.litserve_server``, in LitServe's environment. The annotations
are read when it starts: they are what has FastAPI hand over the body as it is.
"""

from collections.abc import Sequence
from typing import Annotated

import litserve
import numpy as np
from fastapi import Body, Response

from benchmarks.peers.servers.fused import Fused, Rows
from benchmarks.peers.servers.task import Task

__all__ = ["main"]

_BYTES = "application/octet-stream"


class Ensemble(litserve.LitAPI):  # type: ignore[misc]
    """One process with all members."""

    def setup(self, device: str) -> None:
        """Load them."""
        self._members = Fused(Task.read())

    def decode_request(self, request: Annotated[bytes, Body(media_type=_BYTES)]) -> Rows:
        """Take a row."""
        return self._members.row(request)

    def batch(self, inputs: Sequence[Rows]) -> Rows:
        """Make a batch."""
        return np.stack(inputs)

    def predict(self, x: Rows) -> Rows:
        """Answer a batch."""
        return self._members.predict(x)

    def unbatch(self, output: Rows) -> Sequence[Rows]:
        """Take a batch's answers apart."""
        return list(output)

    def encode_response(self, output: Rows) -> Response:
        """Give an answer."""
        return Response(output.tobytes(), media_type=_BYTES)


def main() -> None:
    """Serve until a signal."""
    task = Task.read()
    api = Ensemble(max_batch_size=task.batch, batch_timeout=task.wait_ms / 1e3)
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=task.workers, fast_queue=True
    )
    server.run(
        host="127.0.0.1",
        port=task.port,
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()
