"""Texts of limited length, for errors and logs; used in every process, pure."""

from __future__ import annotations

__all__ = ["abridge", "abridge_line", "one_line"]

_GAP = "..."
#: Of what a library or a user's code says is wrong.
_MAX_LINE_BYTES = 600


def abridge(text: str, max_bytes: int) -> str:
    """Return a text, without its middle if it is longer than `max_bytes` in UTF-8.

    What happened is said first, and the reason last: of the rest, the end is twice as long.
    """
    encoded = text.encode(errors="backslashreplace")
    if len(encoded) <= max_bytes:
        return text
    kept = max(max_bytes - len(_GAP), 0)
    head, tail = encoded[: kept // 3], encoded[len(encoded) - (kept - kept // 3) :]
    return head.decode(errors="ignore") + _GAP + tail.decode(errors="ignore")


def abridge_line(text: str) -> str:
    """Return a message in one line of limited length."""
    return abridge(" ".join(text.split()), _MAX_LINE_BYTES)


def one_line(failure: BaseException) -> str:
    """Return a runtime's message in one line of limited length."""
    return abridge_line(str(failure)) or type(failure).__name__
