"""A bounded cache that keeps what is in use.

Runs in the front-end, on the hot path; pure. Two generations approximate least-recently-used order,
which would cost more than it saves: entries that are new, or used again, are young; when there are
enough of them they become the old generation, and the former old one is dropped.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["GenerationalCache"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class GenerationalCache(Generic[K, V]):
    """A mapping that drops entries out of use; it holds up to twice `generation` entries."""

    def __init__(self, generation: int) -> None:
        self._generation = generation
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def get(self, key: K) -> V | None:
        """The value of a key, None if there is none."""
        value = self._young.get(key)
        if value is None and self._old:
            value = self._old.pop(key, None)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Set the value of a key, which is not None."""
        if len(self._young) >= self._generation:
            self._old, self._young = self._young, {}
        self._young[key] = value
