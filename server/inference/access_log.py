"""The access log: a line for each infer request, or for each that failed by no fault of its own.

Used in the front-end, under both protocols, when a request is over. What it was and what became of
it flows in; lines of the log flow out, with the details as fields of their own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Literal

from server.errors import InternalFault, RequestError
from server.inference.request_ids import new_id

__all__ = ["AccessLog"]

_log = logging.getLogger(__name__)
_SERVER_ERROR = 500

#: Tells the protocol, model, client, request_id and trace_id of a request, if it is to be told.
About = Callable[[], Mapping[str, str]]


class AccessLog:
    """Tells of requests that are over.

    Attributes:
        tells_all: whether of those that were answered, too.
    """

    def __init__(self, kind: Literal["none", "errors", "all"]) -> None:
        self.tells_all = kind == "all"
        self._tells_errors = kind != "none"

    def succeeded(self, began: float, about: Mapping[str, str]) -> None:
        """A request was answered that began then, on the monotonic clock."""
        _log.info("answered", extra={"status": 200, **_timed(began), **about})

    def failed(self, began: float, error: Exception, about: About) -> RequestError:
        """A request was refused or has failed; what its client is told.

        A fault of the server is logged with its traceback, and the client is told by what id.
        """
        if not isinstance(error, RequestError):
            told = dict(about())
            told["request_id"] = told.get("request_id") or new_id()
            _log.error("a request failed", exc_info=error, extra=told)
            return InternalFault(told["request_id"])
        is_ours = error.http_status >= _SERVER_ERROR and error.outcome != "disconnected"
        if self._tells_errors if is_ours else self.tells_all:
            extra = {"status": error.http_status, **_timed(began), **about()}
            level, verb = (logging.WARNING, "failed") if is_ours else (logging.INFO, "refused")
            _log.log(level, "%s: %s", verb, error.message, extra=extra)
        return error


def _timed(began: float) -> dict[str, float]:
    return {"elapsed_ms": round((time.monotonic() - began) * 1e3, 3)}
