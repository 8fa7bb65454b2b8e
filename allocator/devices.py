"""A device as the search for an allocation, and the simulation, see it; pure data."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Device"]


@dataclass(frozen=True)
class Device:
    """Something that runs predictions.

    Attributes:
        name: ``cuda:N`` or ``cpu:N``, or what the user calls a virtual device; unique.
        kind: what profiles are looked up by: ``cpu-N`` for N cores, or a product such as
            ``NVIDIA H200``.
        memory_bytes: the memory that its instances may take together.
        cores: for a CPU device the ids of its cores, else empty.
        pool: devices that name the same pool share their memory, of which each carries the whole
            size; empty for memory of its own.
    """

    name: str
    kind: str
    memory_bytes: int
    cores: tuple[int, ...] = ()
    pool: str = ""

    @property
    def is_cuda(self) -> bool:
        """Whether this is a GPU: all are whose name or kind does not begin with ``cpu``."""
        return not any(text.lower().startswith("cpu") for text in (self.name, self.kind))
