"""Authentication in front of the HTTP API, before anything else handles a request.

Runs in the front-end, around the whole ASGI application: requests flow in, those of clients that
may ask flow on, others are refused here. So a client without a key can't tell which models or
paths there are. It is skipped if the authenticator is not enabled.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Iterable

from server.errors import RequestError, Unauthenticated
from server.http_api import asker
from server.http_api.answers import Scope as AsgiScope
from server.http_api.answers import Send, refuse
from server.http_api.body import Receive
from server.http_api.certified import CERTIFIED
from server.security.authentication import Authenticator, Scope

__all__ = ["Entrance", "authorization_of", "scope_of"]

_OPEN = {"/v2/health/live", "/v2/health/ready"}
_LOOK: tuple[list[str], ...] = ([], ["ready"], ["config"])

Application = Callable[[AsgiScope, Receive, Send], Awaitable[None]]


class Entrance:
    """An ASGI application behind an authenticator.

    Args:
        application: what is behind.
        authenticator: authenticates clients.
        infer_paths: where models are asked; what these need is known without a look.
    """

    def __init__(
        self,
        application: Application,
        authenticator: Authenticator,
        infer_paths: Container[str] = (),
    ) -> None:
        self._application = application
        self._authenticator = authenticator
        self._infer_paths = infer_paths

    def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer one request."""
        if self._authenticator.is_enabled and scope["type"] == "http":
            return self._guarded(scope, receive, send)
        return self._application(scope, receive, send)

    async def _guarded(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        try:
            path, client = scope["path"], scope["client"]
            name = self._authenticator.admit(
                Scope.INFER if path in self._infer_paths else scope_of(path),
                authorization_of(scope["headers"]),
                scope["state"].get(CERTIFIED, ""),
                client[0] if client else "",
            )
        except RequestError as error:
            await refuse(error, scope, receive, asker.echoing(scope, send))
            return
        try:
            await self._application(scope, receive, send)
        finally:
            self._authenticator.limiter.release(name)


def scope_of(path: str) -> Scope:
    """What a request to a path is about; what is not known here is for administrators."""
    path = path.rstrip("/")
    if path in _OPEN:
        return Scope.PUBLIC
    if path == "/v2":
        return Scope.READ
    parts = path.split("/")  # ["", "v2", "models", name, ...]
    if parts[:3] != ["", "v2", "models"] or len(parts) < 4 or path == "/v2/models/stats":
        return Scope.ADMIN
    rest = parts[6:] if parts[4:5] == ["versions"] else parts[4:]
    if rest == ["infer"]:
        return Scope.INFER
    return Scope.READ if rest in _LOOK else Scope.ADMIN


def authorization_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """What a request shows to be let in.

    Raises:
        Unauthenticated: if it shows more than one thing.
    """
    values = [value for name, value in headers if name == b"authorization"]
    if len(values) > 1:
        raise Unauthenticated("there is more than one Authorization header")
    return values[0].decode("latin-1") if values else None
