"""What a peer is told to serve: JSON in the environment's variable PEER.

Runs in the benchmark and in the peers' environments: needs only the standard library.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["VARIABLE", "Task"]

#: The variable that holds the task.
VARIABLE = "PEER"


@dataclass(frozen=True)
class Task:
    """What a peer serves.

    Attributes:
        models: paths of ONNX files.
        logits: whether the models' outputs go through softmax.
        model: what the ensemble is called.
        input: name of the input, common to all models.
        shape: of its row, FP32.
        outputs: values of an answer, FP32.
        port: of HTTP on the loopback.
        workers: processes that run all members.
        batch: rows at once, at most.
        wait_ms: how long the first row of a batch waits for others.
    """

    models: tuple[str, ...]
    logits: bool
    model: str
    input: str
    shape: tuple[int, ...]
    outputs: int
    port: int = 0
    workers: int = 1
    batch: int = 1
    wait_ms: int = 0

    @classmethod
    def read(cls) -> Task:
        """Return the task that this process was started with."""
        found: dict[str, Any] = json.loads(os.environ[VARIABLE])
        return cls(**found | {key: tuple(found[key]) for key in ("models", "shape")})

    def text(self) -> str:
        """Return what `read` reads."""
        return json.dumps(asdict(self))
