"""The doorkeeper: who asks, may they, and how many of their requests are at work at once.

Runs in the front-end, under both protocols; pure. What a client shows flows in; its name comes
out, or a typed error. A front-end without keys and limits has a doorkeeper whom nobody asks:
`is_guarded` is false.

A key is 32 random bytes, so its plain SHA-256 is as good as any slow hash: there is nothing to
guess. Keys are compared by their digests, all of them whatever is found, each in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from enum import Enum

from server.errors import Forbidden, QueueFull, RequestError, Unauthenticated
from server.security.spec import SecuritySpec

__all__ = ["Doorkeeper", "Need"]


class Need(Enum):
    """What a request is about; its value is the scope that it takes."""

    NOTHING = "nothing"
    """Whether the server lives and is ready: open to all."""
    LOOK = "look"
    """What the server and a model are like: any key will do."""
    INFER = "infer"
    ADMIN = "admin"
    URGENT = "urgent"
    """To go before others, beside `INFER`; free to all as long as no key has this scope."""


class Doorkeeper:
    """Lets requests in.

    Args:
        spec: the keys and the limit.
        on_refusal: called with every error that a client gets here, and with its address.

    Attributes:
        is_guarded: whether anybody is to be looked at.
        keeps_urgent: whether only some may be urgent: those whose key has that scope.
    """

    def __init__(self, spec: SecuritySpec, on_refusal: Callable[[RequestError, str], None]) -> None:
        self._on_refusal = on_refusal
        self._at_work: dict[str, int] = {}
        self.change(spec)

    def change(self, spec: SecuritySpec) -> None:
        """Go by other keys and another limit from now on; who is in stays in."""
        self._keys = spec.keys
        self._limit = spec.client_requests
        self.is_guarded = bool(spec.keys or spec.client_requests)
        self.keeps_urgent = any(Need.URGENT.value in key.scopes for key in spec.keys)

    def identify(self, need: Need, authorization: str | None, certified: str, address: str) -> str:
        """`check`, but nobody is told of a refusal."""
        if need is Need.NOTHING:
            return ""
        if not self._keys:
            return certified or address
        return self._holder(_token(authorization), need)

    def check(self, need: Need, authorization: str | None, certified: str, address: str) -> str:
        """Look at a client, but don't let it in yet.

        Args:
            need: what it asks for.
            authorization: its header or metadata of that name.
            certified: what its certificate names, "" if it has shown none.
            address: where it is, without the port.

        Returns:
            Its name, by which its requests are counted.

        Raises:
            Unauthenticated: if it has no key, or none of ours.
            Forbidden: if its key is not for that.
        """
        try:
            return self.identify(need, authorization, certified, address)
        except RequestError as error:
            self._on_refusal(error, address)
            raise

    def admit(self, need: Need, authorization: str | None, certified: str, address: str) -> str:
        """Let a client's request in; it is at work until `leave` is called with what this returns.

        Raises:
            Unauthenticated, Forbidden: as `check`.
            QueueFull: if too many requests of this client are at work.
        """
        name = self.check(need, authorization, certified, address)
        if name:
            count = self._at_work.get(name, 0)
            if count >= self._limit > 0:
                busy = f"{count} requests of this client are being worked on already"
                error = QueueFull(busy, reason="client")
                self._on_refusal(error, address)
                raise error
            self._at_work[name] = count + 1
        return name

    def check_urgent(self, authorization: str | None) -> None:
        """Look whether a client that was let in may go before others.

        Raises:
            Unauthenticated: if its key was taken away meanwhile.
            Forbidden: if it may not.
        """
        if self.keeps_urgent:
            self._holder(_token(authorization), Need.URGENT)

    def leave(self, name: str) -> None:
        """Let a request go that was admitted under this name."""
        if name:
            count = self._at_work[name] - 1
            if count:
                self._at_work[name] = count
            else:
                del self._at_work[name]

    def _holder(self, token: str, need: Need) -> str:
        """Whose key it is, if it is for that."""
        digest = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        found = None
        for key in self._keys:  # all of them: the time tells nobody how far we came
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None:
            raise Unauthenticated("the API key is not known")
        if need is not Need.LOOK and need.value not in found.scopes:
            raise Forbidden(f"the API key of {found.name!r} lacks the scope {need.value!r}")
        return found.name


def _token(authorization: str | None) -> str:
    if authorization is None:
        raise Unauthenticated("an API key is needed: Authorization: Bearer KEY")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("the API key is expected as Authorization: Bearer KEY")
    return token.strip()
