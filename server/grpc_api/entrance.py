"""The entrance to the gRPC API: every call passes the doorkeeper before its message is received.

Runs in the front-end's event loop. The call's metadata, its certificate and its peer flow to the
doorkeeper, if that has anything to guard.
"""

from __future__ import annotations

from server.errors import Unauthenticated
from server.grpc_api.core import Call
from server.security.authentication import Authenticator, Scope

__all__ = ["Entrance"]

_SCOPES = {
    "ServerLive": Scope.PUBLIC,
    "ServerReady": Scope.PUBLIC,
    "ServerMetadata": Scope.READ,
    "ModelMetadata": Scope.READ,
    "ModelReady": Scope.READ,
    "ModelConfig": Scope.READ,
    "ModelInfer": Scope.INFER,
    "ModelStreamInfer": Scope.INFER,
}


class Entrance:
    """Shows calls to a doorkeeper; the names of methods that are not known are administrators'."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def admit(self, method: str, call: Call) -> str:
        """Let a call of a method in; `leave` is told what this returns.

        Raises:
            Unauthenticated, Forbidden: if it may not.
            QueueFull: if too many requests of this client are at work.
        """
        need = _SCOPES.get(method, Scope.ADMIN)
        if need is Scope.PUBLIC or not self._authenticator.is_enabled:
            return ""
        return self._authenticator.admit(need, *_shown(call))

    def leave(self, client: str) -> None:
        """A call that was let in is over."""
        self._authenticator.limiter.release(client)

    def check(self, method: str, call: Call) -> None:
        """Look at who calls a method.

        Raises:
            Unauthenticated, Forbidden: if it may not.
        """
        if self._authenticator.is_enabled:
            self._authenticator.authorize(_SCOPES.get(method, Scope.ADMIN), *_shown(call))

    @property
    def keeps_urgent(self) -> bool:
        """Whether only some may go before others."""
        return self._authenticator.restricts_urgent

    def check_urgent(self, call: Call) -> None:
        """Look whether who calls may go before others.

        Raises:
            Unauthenticated, Forbidden: if it may not.
        """
        if self._authenticator.restricts_urgent:
            self._authenticator.authorize_urgent(_shown(call)[0])


def _shown(call: Call) -> tuple[str | None, str, str]:
    """What a client shows: its authorization, whom its certificate names, its address."""
    values = [value for name, value in call.metadata if name == "authorization"]
    if len(values) > 1:
        raise Unauthenticated("there is more than one authorization in the metadata")
    names = call.certified_names() or (b"",)
    return (
        values[0] if values else None,
        names[0].decode(errors="replace"),
        _host(call.peer()),
    )


def _host(peer: str) -> str:
    """The address in a peer's name, such as ``ipv4:127.0.0.1:4711`` or ``ipv6:%5B::1%5D:4711``."""
    return peer.partition(":")[2].rpartition(":")[0].removeprefix("%5B").removesuffix("%5D")
