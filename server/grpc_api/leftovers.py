"""What gRPC leaves behind of every call, collected by its bytes.

Runs in the front-end's event loop, where gRPC asks for a call's method: handlers flow in, and out
again to their calls. While grpc.aio (1.85) looks for the method it ties itself into a cycle: a
function that its own variables hold, and beside it the call's path and metadata, which may be as
large as `server.limits.header_bytes`. Nobody but the collector of garbage finds that, and the
collector counts objects: five of them for 60 KB. So what is left behind is weighed here, and
collected before it is much.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import grpc

__all__ = ["Leftovers", "Methods"]

#: Of a call without metadata, as the memory of the process shows it.
_CALL_BYTES = 2000
#: About a thousand calls: to collect them takes half a millisecond.
_MOST_BYTES = 2 << 20
#: Those of calls that were at work meanwhile are found when everything is looked through.
_EVERYTHING_EVERY = 16


class Leftovers:
    """What all servers have left behind and nobody has collected yet."""

    def __init__(self) -> None:
        self._bytes = 0
        self._collections = 0

    def add(self, nbytes: int) -> None:
        """Count what a call leaves behind beside a fixed size; collect if it is too much now."""
        self._bytes += _CALL_BYTES + nbytes
        if self._bytes > _MOST_BYTES:
            self._bytes = 0
            self._collections += 1
            gc.collect(1 if self._collections % _EVERYTHING_EVERY else 2)


class Methods(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The methods of a service, for a gRPC server.

    Args:
        handlers: by path.
        leftovers: of all servers.
    """

    def __init__(self, handlers: Mapping[str, Any], leftovers: Leftovers) -> None:
        self._handlers = handlers
        self._leftovers = leftovers

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call's method, None if there is no such method."""
        path, nbytes = handler_call_details.method, 0
        for name, value in handler_call_details.invocation_metadata:
            nbytes += len(name) + len(value)
        self._leftovers.add(len(path) + nbytes)
        return self._handlers.get(path)
