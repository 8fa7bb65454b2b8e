"""The members as a peer's worker runs them: all in one process, one after the other.

Runs in a peer's environment: needs only NumPy and ONNX Runtime.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from benchmarks.peers.servers.task import Task

__all__ = ["Fused", "Rows"]

Rows = npt.NDArray[np.float32]


class Fused:
    """All members of a task, loaded; one thread, which does not spin."""

    def __init__(self, task: Task) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._task = task
        self._sessions: list[Any] = [
            onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            for path in task.models
        ]

    def row(self, body: bytes) -> Rows:
        """Return the row that is a request's body, without its batch dimension."""
        return np.frombuffer(body, np.float32).reshape(self._task.shape)

    def predict(self, rows: Rows) -> Rows:
        """Return the mean of the members' answers, [n, outputs]."""
        total: Any = 0
        for session in self._sessions:
            (answer,) = session.run(None, {self._task.input: rows})
            total = total + (_softmax(answer) if self._task.logits else answer)
        mean: Rows = np.divide(total, len(self._sessions), dtype=np.float32)
        return mean


def _softmax(logits: Rows) -> Rows:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Rows = raised / raised.sum(axis=1, keepdims=True)
    return probabilities
