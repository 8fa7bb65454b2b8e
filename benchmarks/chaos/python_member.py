"""A member in Python that answers as the fakes do, and fails on poison as a user's class might.

Imported by the workers of the system under test. Rows [n, 4] flow in, rows plus a number flow out.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["LEAK_MIB", "Adds"]

#: More than a device of the scene has.
LEAK_MIB = 350
_PRINTED_LINES = 500

Floats = npt.NDArray[np.float32]


class Adds:
    """Adds a number, after `sleep_ms`.

    Args:
        add: the number.
        sleep_ms: the time that a batch takes.
        fail: how it fails, `exit`, `hang`, `leak`, `print` or `raise`; empty if it does not.
        poison: on which first element of a row it fails.
    """

    def __init__(
        self, add: float, sleep_ms: float = 0.0, fail: str = "", poison: float = np.inf
    ) -> None:
        self._add = np.float32(add)
        self._sleep_s = sleep_ms / 1e3
        self._fail = fail
        self._poison = np.float32(poison)
        self._held: list[Any] = []

    def predict(self, x: Floats) -> dict[str, Floats]:
        """Return x [n, columns] plus the number."""
        time.sleep(self._sleep_s)
        if (x[:, 0] == self._poison).any():
            self._misbehave()
        return {"sum": x + self._add}

    def _misbehave(self) -> None:
        match self._fail:
            case "raise":
                raise ValueError("a member in Python raised, as configured")
            case "exit":
                os._exit(7)
            case "hang":
                threading.Event().wait()
            case "leak":
                self._held.append(np.ones(LEAK_MIB << 20, np.uint8))
            case "print":
                for number in range(_PRINTED_LINES):
                    print("a member in Python says", number, file=sys.stdout)
