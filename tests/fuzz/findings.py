"""What a campaign finds out: outcomes by kind, how long they took, and what must not be."""

from __future__ import annotations

import base64
import threading
from collections import Counter
from typing import Any

_MOST_KEPT = 50
_MOST_BYTES = 20_000


class Findings:
    """Takes what the clients say; safe between threads.

    Attributes:
        done: how many things were done.
        ended: how many calls ended with the gRPC server that they were made to, see `campaign`.
        violations: what must not be, each with the bytes that brought it about.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: dict[str, Counter[str]] = {}
        self._slowest_s: dict[str, float] = {}
        self.done = 0
        self.ended = 0
        self.violations: list[dict[str, Any]] = []

    def count(self, kind: str, outcomes: list[str], seconds: float) -> None:
        """One thing was done."""
        with self._lock:
            self.done += 1
            self._outcomes.setdefault(kind, Counter()).update(outcomes)
            self._slowest_s[kind] = max(seconds, self._slowest_s.get(kind, 0.0))

    def violate(self, kind: str, what: str, data: bytes = b"") -> None:
        """Something was found that must not be."""
        with self._lock:
            if len(self.violations) < _MOST_KEPT:
                sent = base64.b64encode(data[:_MOST_BYTES]).decode()
                self.violations.append({"kind": kind, "what": what, "sent": sent})

    def end(self) -> None:
        """A call ended with its server."""
        with self._lock:
            self.ended += 1

    def document(self) -> dict[str, Any]:
        """All of it, for JSON."""
        with self._lock:
            kinds = {
                kind: {
                    "outcomes": dict(sorted(self._outcomes[kind].items())),
                    "slowest_s": round(self._slowest_s[kind], 3),
                }
                for kind in sorted(self._outcomes)
            }
            return {"requests": self.done, "kinds": kinds, "violations": list(self.violations)}
