"""Authentication, authorization and concurrency limits of clients.

Runs in the front-end, under both protocols; pure. Callers skip it all while neither keys nor a
limit are configured (`is_enabled`).

A key is 32 random bytes, so its plain SHA-256 is as good as a slow hash: there is nothing to guess.
It is compared with all configured digests, each in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from enum import Enum

from server.errors import Forbidden, QueueFull, RequestError, Unauthenticated
from server.security.spec import SecuritySpec

__all__ = ["Authenticator", "ConcurrencyLimiter", "Scope"]


class Scope(Enum):
    """What a request needs; the values of `INFER`, `ADMIN` and `URGENT` are scopes of keys."""

    PUBLIC = "public"
    """Liveness and readiness: open to all."""
    READ = "read"
    """Metadata of the server and its models: any key will do."""
    INFER = "infer"
    ADMIN = "admin"
    URGENT = "urgent"
    """High priority, beside `INFER`; free to all as long as no key has this scope."""


class ConcurrencyLimiter:
    """Limits how many requests of one client run at once; 0 is no limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._active: dict[str, int] = {}

    def acquire(self, client: str) -> None:
        """Count a request, unless its client is ""; `QueueFull` if too many are running."""
        if not client:
            return
        count = self._active.get(client, 0)
        if count >= self.limit > 0:
            busy = f"{count} requests of this client are already running"
            raise QueueFull(busy, reason="client")
        self._active[client] = count + 1

    def release(self, client: str) -> None:
        """End a request that `acquire` has counted."""
        if client:
            count = self._active[client] - 1
            if count:
                self._active[client] = count
            else:
                del self._active[client]


class Authenticator:
    """Identifies clients and checks what they may do.

    `on_refusal` gets each error that `authorize` and `admit` raise, and the client's address. If it
    `restricts_urgent`, urgent requests need a key with that scope.
    """

    def __init__(self, spec: SecuritySpec, on_refusal: Callable[[RequestError, str], None]) -> None:
        self._on_refusal = on_refusal
        self.limiter = ConcurrencyLimiter(spec.client_requests)
        self.update(spec)

    def update(self, spec: SecuritySpec) -> None:
        """Replace the keys and the limit; requests already admitted are not affected."""
        self._keys = spec.keys
        self.limiter.limit = spec.client_requests
        self.is_enabled = bool(spec.keys or spec.client_requests)
        self.restricts_urgent = any(Scope.URGENT.value in key.scopes for key in spec.keys)

    def authenticate(
        self, scope: Scope, authorization: str | None, certified: str, address: str
    ) -> str:
        """`authorize`, but `on_refusal` is not called."""
        if scope is Scope.PUBLIC:
            return ""
        if not self._keys:
            return certified or address
        return self._key_name(_token(authorization), scope)

    def authorize(
        self, scope: Scope, authorization: str | None, certified: str, address: str
    ) -> str:
        """Identify a client and check that it may do what needs `scope`.

        `certified` is the name in its certificate, "" for none; `address` is its host without the
        port. Returns the name under which its requests are counted, "" if they are not.

        Raises `Unauthenticated` without a known key, `Forbidden` if the key lacks the scope.
        """
        try:
            return self.authenticate(scope, authorization, certified, address)
        except RequestError as error:
            self._on_refusal(error, address)
            raise

    def admit(self, scope: Scope, authorization: str | None, certified: str, address: str) -> str:
        """`authorize`, and count the request until the name is given to `limiter.release`.

        Raises `QueueFull`, too, if the client has too many requests running.
        """
        try:
            client = self.authenticate(scope, authorization, certified, address)
            self.limiter.acquire(client)
        except RequestError as error:
            self._on_refusal(error, address)
            raise
        return client

    def authorize_urgent(self, authorization: str | None) -> None:
        """Check that an admitted client may send urgent requests.

        Raises `Forbidden` without the scope, `Unauthenticated` if the key was removed meanwhile.
        """
        if self.restricts_urgent:
            self._key_name(_token(authorization), Scope.URGENT)

    def _key_name(self, token: str, scope: Scope) -> str:
        """The name of a key that has a scope."""
        digest = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        found = None
        for key in self._keys:  # all of them: the time must not tell which one matched
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None:
            raise Unauthenticated("the API key is not known")
        if scope is not Scope.READ and scope.value not in found.scopes:
            raise Forbidden(f"the API key of {found.name!r} lacks the scope {scope.value!r}")
        return found.name


def _token(authorization: str | None) -> str:
    if authorization is None:
        raise Unauthenticated("an API key is needed: Authorization: Bearer KEY")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("the API key is expected as Authorization: Bearer KEY")
    return token.strip()
