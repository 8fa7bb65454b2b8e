"""Authentication of gRPC calls, before their messages are received.

Runs in the front-end's event loop. A call's metadata, its client's certificate and its peer flow
to the `Authenticator`, unless that is not enabled.
"""

from __future__ import annotations

from server.errors import Unauthenticated
from server.grpc_api.core import ServerCall, split_peer
from server.security.authentication import Authenticator, Scope

__all__ = ["admit_call", "authorize_call", "authorize_urgent"]

#: Methods that are not listed need the admin scope.
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


def admit_call(authenticator: Authenticator, method: str, call: ServerCall) -> str:
    """Authorize and count a call; returns the client's name, for `limiter.release`.

    Raises `Unauthenticated` or `Forbidden`, or `QueueFull` if the client has too many running.
    """
    scope = _SCOPES.get(method, Scope.ADMIN)
    if scope is Scope.PUBLIC or not authenticator.is_enabled:
        return ""
    return authenticator.admit(scope, *_credentials(call))


def authorize_call(authenticator: Authenticator, method: str, call: ServerCall) -> None:
    """Authorize a call without counting it; raises `Unauthenticated` or `Forbidden`."""
    if authenticator.is_enabled:
        authenticator.authorize(_SCOPES.get(method, Scope.ADMIN), *_credentials(call))


def authorize_urgent(authenticator: Authenticator, call: ServerCall) -> None:
    """Raise `Unauthenticated` or `Forbidden` if the client may not send urgent requests."""
    if authenticator.restricts_urgent:
        authenticator.authorize_urgent(_credentials(call)[0])


def _credentials(call: ServerCall) -> tuple[str | None, str, str]:
    """Authorization, the certificate's name ("" for none) and the host of a call's client."""
    values = [value for name, value in call.metadata if name == "authorization"]
    if len(values) > 1:
        raise Unauthenticated("there is more than one authorization in the metadata")
    names = call.certificate_names() or (b"",)
    return (
        values[0] if values else None,
        names[0].decode(errors="replace"),
        split_peer(call.peer())[0],
    )
