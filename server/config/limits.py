"""The `server.limits` section: what clients may take of the server's time and memory.

Runs in the process that reads the configuration file; the section flows in as a mapping and out
as a frozen model.
"""

from __future__ import annotations

from pydantic import ByteSize, Field

from server.config.base import Bytes, Section

__all__ = ["LimitsConfig"]


class LimitsConfig(Section):
    """What clients may take of the server's time and memory."""

    queue_s: float = Field(default=10.0, gt=0)
    """A request that would have to wait longer than that for its answer, to judge by what waits
    and how fast it goes, is refused at once (429); its own deadline counts as well if it is
    earlier."""
    waiting_bytes: Bytes = ByteSize(512 << 20)
    """Memory for bodies that are being received, and for requests that wait for space in the
    arena; beyond that, others are refused (429)."""
