"""The entrance to the gRPC API: the methods behind the doorkeeper.

Runs in the front-end's event loop. The call's metadata, its certificate and its peer flow to the
doorkeeper; calls of clients that may ask flow on. Nothing is added to a call if there is nothing to
guard but one look at the doorkeeper.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from server.errors import RequestError, Unauthenticated
from server.grpc_api import asker
from server.security.doorkeeper import Doorkeeper, Need

__all__ = ["Entrance"]

_NEEDS = {
    "ServerLive": Need.NOTHING,
    "ServerReady": Need.NOTHING,
    "ServerMetadata": Need.LOOK,
    "ModelMetadata": Need.LOOK,
    "ModelReady": Need.LOOK,
    "ModelConfig": Need.LOOK,
    "ModelInfer": Need.INFER,
    "ModelStreamInfer": Need.INFER,
}

T = TypeVar("T")
Method = Callable[[T, Any], Awaitable[bytes]]


class Entrance:
    """Puts a doorkeeper before methods."""

    def __init__(self, door: Doorkeeper) -> None:
        self._door = door

    def guarded(self, name: str, method: Method[T]) -> Method[T]:
        """A method that lets in who may call it, and counts it as at work meanwhile.

        Args:
            name: of the method; one that is not known here is for administrators.
            method: from what was asked and the call's context to the answer.
        """
        door, need = self._door, _NEEDS.get(name, Need.ADMIN)
        if need is Need.NOTHING:
            return method

        async def enter(asked: T, context: Any) -> bytes:
            try:
                client = door.admit(need, *_shown(context))
            except RequestError:
                asker.echo(context)
                raise
            try:
                return await method(asked, context)
            finally:
                door.leave(client)

        def pass_by(asked: T, context: Any) -> Awaitable[bytes]:
            return enter(asked, context) if door.is_guarded else method(asked, context)

        return pass_by

    def check(self, name: str, context: Any) -> None:
        """Look at who calls a method.

        Raises:
            Unauthenticated, Forbidden: if it may not.
        """
        if self._door.is_guarded:
            self._door.check(_NEEDS.get(name, Need.ADMIN), *_shown(context))

    def check_urgent(self, context: Any) -> None:
        """Look whether who calls may go before others.

        Raises:
            Unauthenticated, Forbidden: if it may not.
        """
        if self._door.keeps_urgent:
            self._door.check_urgent(_shown(context)[0])


def _shown(context: Any) -> tuple[str | None, str, str]:
    """What a client shows: its authorization, whom its certificate names, its address."""
    values = [value for name, value in context.invocation_metadata() if name == "authorization"]
    if len(values) > 1:
        raise Unauthenticated("there is more than one authorization in the metadata")
    named = context.auth_context()
    names = named.get("x509_common_name") or named.get("x509_subject_alternative_name") or [b""]
    return (
        values[0] if values else None,
        names[0].decode(errors="replace"),
        _host(context.peer()),
    )


def _host(peer: str) -> str:
    """The address in a peer's name, such as ``ipv4:127.0.0.1:4711`` or ``ipv6:%5B::1%5D:4711``."""
    return peer.partition(":")[2].rpartition(":")[0].removeprefix("%5B").removesuffix("%5D")
