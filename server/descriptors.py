"""How many file descriptors the processes of a server need, and what is left for connections.

Runs in the supervisor, which checks that there are enough before it starts anything, and in the
front-end. The limit of the system and the number of devices flow in; numbers flow out.
"""

from __future__ import annotations

import resource

from server.errors import StartError

__all__ = ["check_descriptors", "connection_limits", "raise_descriptor_limit"]

#: Shares of the front-end's descriptors for connections; the rest is for files and the like.
_HTTP_SHARE, _GRPC_SHARE = 0.75, 0.1
_MAX_CONNECTIONS = 1 << 16
#: What processes hold without connections, counted on running servers with some to spare. The
#: supervisor has four for each child, and those that a child is started with; the front-end has a
#: bell for each worker.
_SUPERVISOR, _PER_CHILD = 24, 4
_FRONT_END = 48
_FEWEST_CONNECTIONS = 4


def raise_descriptor_limit() -> int:
    """Raise this process's limit of file descriptors to the hard limit; return that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return _MAX_CONNECTIONS * 2 if hard == resource.RLIM_INFINITY else hard


def connection_limits(descriptors: int, devices: int) -> tuple[int, int]:
    """Return how many HTTP and gRPC connections so many file descriptors allow for."""
    free = max(descriptors - _FRONT_END - devices, 0)
    grpc = min(int(descriptors * _GRPC_SHARE), free // 8)
    http = min(int(descriptors * _HTTP_SHARE), free - 2 * grpc)  # gRPC spreads its own unevenly
    return max(1, min(_MAX_CONNECTIONS, http)), max(1, min(_MAX_CONNECTIONS, grpc))


def check_descriptors(devices: int) -> None:
    """Raise `StartError` if the hard limit is too low for a server with so many devices."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    supervisor = _SUPERVISOR + _PER_CHILD * (devices + 2)
    needed = max(supervisor, _FRONT_END + devices + _FEWEST_CONNECTIONS)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise StartError(
            f"the limit of file descriptors is {hard}, a server with {devices} devices needs "
            f"{needed} and one for each connection: raise it (ulimit -n), to 1024 at least"
        )
