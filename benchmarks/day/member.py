"""A member for the served part of the day: it takes memory, and time without the CPU."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

__all__ = ["Sleeper"]


class Sleeper:
    """Answers with its input after some milliseconds per batch; holds some MiB of memory."""

    def __init__(self, ms: float, mib: int) -> None:
        self.inputs = {"x": ("FP32", [4])}
        self._seconds = ms / 1000
        self._mib = mib

    def load(self, _device: str) -> None:
        """Take the memory."""
        self._held = np.ones(self._mib << 20, np.uint8)

    def predict(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Answer a batch, [n, 4]."""
        time.sleep(self._seconds)
        return x
