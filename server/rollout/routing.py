"""Which requests go to the new version of a model: a share of them, or of their keys.

Runs in the front-end; pure. A key flows in, empty for a request without one, and out whether the
new version gets the request.
"""

from __future__ import annotations

from hashlib import blake2b

from server.rollout.spec import RolloutSpec

__all__ = ["Router"]

_POINTS = 1 << 64
#: 2 ** 64 divided by the golden ratio: its multiples, modulo 2 ** 64, fill the circle evenly.
_STEP = 0x9E3779B97F4A7C15


class Router:
    """Routes the requests to one model.

    Each request has a point on a circle of 2 ** 64, and the new version gets those below its share
    of it. With a key the point is the key's hash: equal keys stay together, and a larger share
    takes nothing from the new version. Without one it is the next of a Weyl sequence: the share is
    kept to a request or two from the beginning, without a period that might be that of a client.
    Source of the sequence: Knuth, "The Art of Computer Programming", volume 3, section 6.4
    (Fibonacci hashing).
    """

    def __init__(self, spec: RolloutSpec) -> None:
        self._below = round(spec.percent / 100 * _POINTS)
        self._salt = blake2b(f"{spec.model}/{spec.version}".encode(), digest_size=16).digest()
        self._point = 0

    def takes(self, key: str = "") -> bool:
        """Whether the new version gets a request; a share of 0 gets none, one of 100 all."""
        if not key:
            self._point = (self._point + _STEP) % _POINTS
            return self._point < self._below
        digest = blake2b(key.encode(), digest_size=8, key=self._salt).digest()
        return int.from_bytes(digest, "little") < self._below
