"""Request ids and the access log: a line per infer request, or per one that the server failed.

Runs in the front-end, under both protocols, when a request has ended. Its description and its
outcome flow in; log records flow out, with the details as fields of their own.

A request's id is the header ``X-Request-Id`` (gRPC: that metadata), else the protocol's own ``id``.
One that is too long or not visible ASCII is ignored. Requests need no id: only an error that refers
to the log gets a new one if there is none.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Literal

from server.errors import InternalFault, RequestError

__all__ = ["REQUEST_ID_HEADER", "AccessLog", "new_request_id", "valid_request_id"]

_log = logging.getLogger(__name__)
_SERVER_ERROR = 500

REQUEST_ID_HEADER = "x-request-id"
_is_valid = re.compile(r"[!-~]{1,128}").fullmatch

#: Describes a request that is to be logged: protocol, model, client, request_id and trace_id.
Describe = Callable[[], Mapping[str, str]]


def valid_request_id(*candidates: str) -> str:
    """The first of these ids that is valid, "" if none is."""
    return next((text for text in candidates if _is_valid(text)), "")


def new_request_id() -> str:
    """A random id."""
    return secrets.token_hex(8)


class AccessLog:
    """Logs requests that have ended; if `logs_all`, successes and client errors, too."""

    def __init__(self, kind: Literal["none", "errors", "all"]) -> None:
        self.logs_all = kind == "all"
        self._logs_errors = kind != "none"

    def succeeded(self, began: float, fields: Mapping[str, str]) -> None:
        """Log a successful request that began at this time of the monotonic clock."""
        _log.info("answered", extra={"status": 200, **_elapsed(began), **fields})

    def failed(self, began: float, error: Exception, describe: Describe) -> RequestError:
        """Log a request that was refused or has failed; returns the error to send to the client.

        An unexpected exception is logged with its traceback and becomes an `InternalFault` with the
        id under which it was logged.
        """
        if not isinstance(error, RequestError):
            fields = dict(describe())
            fields["request_id"] = fields.get("request_id") or new_request_id()
            _log.error("a request failed", exc_info=error, extra=fields)
            return InternalFault(fields["request_id"])
        is_ours = error.http_status >= _SERVER_ERROR and error.outcome != "disconnected"
        if self._logs_errors if is_ours else self.logs_all:
            extra = {"status": error.http_status, **_elapsed(began), **describe()}
            level, verb = (logging.WARNING, "failed") if is_ours else (logging.INFO, "refused")
            _log.log(level, "%s: %s", verb, error.message, extra=extra)
        return error


def _elapsed(began: float) -> dict[str, float]:
    return {"elapsed_ms": round((time.monotonic() - began) * 1e3, 3)}
