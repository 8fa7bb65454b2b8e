"""File descriptors: as many as the operating system allows, and how many of them clients may take.

Used in the front-end, where every connection is one.
"""

from __future__ import annotations

import resource

__all__ = ["connection_room", "grpc_connection_room", "raise_descriptor_limit"]

#: The rest is for the server itself.
#: gRPC's servers may take twice their share together, since connections are dealt out unevenly.
_HTTP_SHARE, _GRPC_SHARE = 0.75, 0.1
_MOST_CONNECTIONS = 1 << 16


def raise_descriptor_limit() -> int:
    """Raise the process's limit of file descriptors as far as it may; the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return _MOST_CONNECTIONS * 2 if hard == resource.RLIM_INFINITY else hard


def connection_room(descriptors: int) -> int:
    """How many HTTP connections there may be with so many file descriptors."""
    return max(1, min(_MOST_CONNECTIONS, int(descriptors * _HTTP_SHARE)))


def grpc_connection_room(descriptors: int) -> int:
    """How many gRPC connections there may be with so many file descriptors."""
    return max(1, min(_MOST_CONNECTIONS, int(descriptors * _GRPC_SHARE)))
