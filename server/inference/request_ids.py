"""What a client calls its request, to be found again in its answer and in the log.

Used in the front-end, under both protocols; pure. The id is that of the header ``X-Request-Id`` (of
the metadata, over gRPC), else the protocol's own ``id``. One that is too long or has other than
visible ASCII characters is passed over. Nobody needs one: only an answer that sends people to the
log gets a new one if need be.
"""

from __future__ import annotations

import re
import secrets

__all__ = ["HEADER", "acceptable", "new_id"]

HEADER = "x-request-id"
_acceptable = re.compile(r"[!-~]{1,128}").fullmatch


def acceptable(*given: str) -> str:
    """The first of these ids that can be used, empty if there is none."""
    return next((text for text in given if _acceptable(text)), "")


def new_id() -> str:
    """An id that nobody else has."""
    return secrets.token_hex(8)
