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
    """A request is refused at once (429) if what waits before it would take longer than that, to
    judge by how fast it goes; and if it could not be answered by its own deadline."""
    waiting_rows: int = Field(default=65536, ge=1)
    """How many rows the requests that wait for space in the arena may have together, for each model
    and priority, before others are refused (429); a lone request may have more."""
    header_s: float = Field(default=10.0, gt=0)
    """Time for a request's headers to come, from their first byte (408, over HTTP only)."""
    header_bytes: Bytes = Field(default=ByteSize(64 << 10), ge=1024)
    """Largest headers of a request (431), and metadata of a call over gRPC."""
    body_s: float = Field(default=60.0, gt=0)
    """Time for a request's body, or a call's message, to come (408)."""
    idle_s: float = Field(default=75.0, gt=0)
    """A connection on which no request comes or is answered for so long is closed."""
    write_s: float = Field(default=30.0, gt=0)
    """Time for an answer to be taken by its client; then its connection is closed."""
    connections: int | None = Field(default=None, ge=1)
    """How many HTTP connections may be open, others are refused (503); if absent, three quarters
    of the file descriptors that the operating system allows, 65536 at most."""
    calls: int = Field(default=4096, ge=1)
    """How many calls may be open over gRPC, at most half of them streams; others are refused
    (RESOURCE_EXHAUSTED)."""
    waiting_bytes: Bytes = ByteSize(512 << 20)
    """Memory for requests' bodies while they are received and until they are answered; beyond
    that, others are refused (429). Bodies that come in one piece of less than 64 KiB, as most do,
    are not counted. Images may take as much again when they are decoded for the models; a request
    whose images would take more by themselves is refused (413). Answers may take as much again
    while they are put together."""
    unread_bytes: Bytes = Field(default=ByteSize(512 << 20), ge=1 << 20)
    """Memory for answers that clients do not read: beyond that, connections are closed that hold
    more than an equal part, the ones first that have waited longest. Make it several times the
    largest answer. What is less than 64 KiB on a connection over HTTP, or in a call over gRPC, is
    not counted."""
    client_requests: int = Field(default=0, ge=0)
    """How many requests of one client are worked on at once, more are refused (429); 0 is no
    limit. A client is an API key; without keys, what a client's certificate names, or an
    address."""
