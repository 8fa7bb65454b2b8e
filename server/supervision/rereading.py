"""The configuration, read again when SIGHUP comes: what can change while the server runs.

Runs in the supervisor. The signal flows in, even one that comes before the server is up; what the
front-end is to go by flows out. Keys, certificates, the limit per client and the log level change;
whatever else has changed is named in the log and left as it is. A configuration that is wrong
changes nothing.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import msgspec

from server.config import Config
from server.errors import ConfigError
from server.inference.spec import Reload
from server.security.credentials import Credentials, read_credentials
from server.security.spec import SecuritySpec, TlsFiles

__all__ = ["Rereading"]

_log = logging.getLogger(__name__)

_CAN_CHANGE = {
    "server.api_keys",
    "server.api_keys_file",
    "server.limits.client_requests",
    "server.log_level",
    "server.tls.certificate",
    "server.tls.key",
}
#: Other authorities may be trusted, but whether clients need a certificate stays.
_CLIENT_CA = "server.tls.client_ca"


class Rereading:
    """Reads the configuration again; made when it was read for the first time.

    Args:
        config: what the server starts with.
        read: reads the same configuration again.

    Attributes:
        credentials: what `config` says about keys and certificates.
        is_due: whether SIGHUP has come already.

    Raises:
        ConfigError: if a key or a certificate is not what it should be.
    """

    def __init__(self, config: Config, read: Callable[[], Config]) -> None:
        self._config = config
        self._read = read
        self.credentials = read_credentials(config.server)
        self._running = self.credentials.spec
        self.is_due = False
        signal.signal(signal.SIGHUP, self._note)

    def again(self) -> Reload | None:
        """Read it again; what to go by now, or None if it is wrong."""
        self.is_due = False
        try:
            config = self._read()
            credentials = read_credentials(config.server)
            self._running = _applied(self._running, credentials)
        except (ConfigError, OSError) as error:
            for line in str(error).splitlines():
                _log.error("nothing is reloaded: %s", line)
            return None
        except Exception:  # a mistake of ours: the next signal must find somebody who listens
            _log.exception("nothing is reloaded: reading the configuration failed")
            return None
        _log.info("the configuration was read again")
        for warning in credentials.warnings:
            _log.warning("%s", warning)
        for key in _differences(self._config.model_dump(), config.model_dump(), ""):
            _log.warning("%s has changed, which takes a restart", key)
        return Reload(self._running, config.server.log_level)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.is_due = True


def _applied(running: SecuritySpec, credentials: Credentials) -> SecuritySpec:
    """What to go by: a server that asks for keys or certificates goes on asking.

    Raises:
        ConfigError: if there are no keys any more.
    """
    wanted = credentials.spec
    if running.keys and not wanted.keys:
        raise ConfigError("server.api_keys: to serve without keys takes a restart")
    return msgspec.structs.replace(wanted, tls=_applied_tls(running.tls, wanted.tls))


def _applied_tls(running: TlsFiles | None, wanted: TlsFiles | None) -> TlsFiles | None:
    if running is None or wanted is None:
        return running
    if bool(running.client_ca) != bool(wanted.client_ca):
        return msgspec.structs.replace(wanted, client_ca=running.client_ca)
    return wanted


def _differences(before: Any, after: Any, place: str) -> Iterator[str]:
    """The keys whose values differ and can't change; never the values."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            inner = f"{place}.{key}" if place else str(key)
            if key in before and key in after:
                yield from _differences(before[key], after[key], inner)
            else:
                yield inner
    elif before != after and place not in _CAN_CHANGE:
        was_changed_only = before is not None and after is not None
        if not (place == _CLIENT_CA and was_changed_only):
            yield place
