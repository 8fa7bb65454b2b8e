"""What was found out lately, by what it depends on: a bounded cache that clients can't fill up.

Runs in the front-end, on the hot path; pure. Two generations stand in for an order of last use,
which would cost more than it saves: what is new, or asked for again, is young; when there are
enough of the young they become the old, and what was old is forgotten.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["GenerationalCache"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class GenerationalCache(Generic[K, V]):
    """A mapping that keeps what is in use.

    Args:
        generation: how many entries are young at most; it holds twice as many.
    """

    def __init__(self, generation: int) -> None:
        self._generation = generation
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: K) -> V | None:
        """What is known under a key, None if nothing is."""
        value = self._young.get(key)
        if value is None and self._old:
            value = self._old.pop(key, None)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Keep what was found out; `value` is not None."""
        if len(self._young) >= self._generation:
            self._old, self._young = self._young, {}
        self._young[key] = value
