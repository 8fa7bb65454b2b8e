"""Reloads the configuration on SIGHUP, as far as it can change while the server runs.

Runs in the supervisor. The signal flows in, even one that arrives before the server is up; what the
front-end applies flows out. Keys, certificates, the limit per client and the log level can change;
any other change is logged as a warning and ignored. A configuration that is wrong changes nothing.
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
from server.security.credentials import read_credentials
from server.security.spec import SecuritySpec

__all__ = ["ConfigReloader"]

_log = logging.getLogger(__name__)

_RELOADABLE = {
    "server.api_keys",
    "server.api_keys_file",
    "server.limits.client_requests",
    "server.log_level",
    "server.tls.certificate",
    "server.tls.key",
}
#: The CAs can change, but not whether clients need a certificate.
_CLIENT_CA = "server.tls.client_ca"


class ConfigReloader:
    """Reads the configuration again, and compares it with the one that the server started with.

    `credentials` are those in `config`; a SIGHUP since the last reload makes a reload `is_due`.

    Raises:
        ConfigError: if a key or a certificate is not valid.
    """

    def __init__(self, config: Config, read: Callable[[], Config]) -> None:
        self._config = config
        self._read = read
        self.credentials = read_credentials(config.server)
        self._running = self.credentials.spec
        self.is_due = False
        signal.signal(signal.SIGHUP, self._on_sighup)

    def reload(self) -> Reload | None:
        """Read the configuration; return what to apply, or None if it is wrong."""
        self.is_due = False
        try:
            config = self._read()
            credentials = read_credentials(config.server)
            self._running = _reloaded(self._running, credentials.spec)
        except (ConfigError, OSError) as error:
            for line in str(error).splitlines():
                _log.error("configuration not reloaded: %s", line)
            return None
        except Exception:  # a bug of ours must not end the task that handles the next signal
            _log.exception("configuration not reloaded: reading it failed")
            return None
        _log.info("configuration read again")
        for warning in credentials.warnings:
            _log.warning("%s", warning)
        for key in _changed_keys(self._config.model_dump(), config.model_dump(), ""):
            _log.warning("%s has changed, which requires a restart", key)
        return Reload(self._running, config.server.log_level)

    def _on_sighup(self, _number: int, _frame: FrameType | None) -> None:
        self.is_due = True


def _reloaded(running: SecuritySpec, new: SecuritySpec) -> SecuritySpec:
    """What to apply: a server that requires keys or certificates continues to require them.

    Raises:
        ConfigError: if there are no keys any more.
    """
    if running.keys and not new.keys:
        raise ConfigError("server.api_keys: serving without keys requires a restart")
    tls = running.tls
    if tls is not None and new.tls is not None:
        is_same = bool(tls.client_ca) == bool(new.tls.client_ca)
        tls = new.tls if is_same else msgspec.structs.replace(new.tls, client_ca=tls.client_ca)
    return msgspec.structs.replace(new, tls=tls)


def _changed_keys(before: Any, after: Any, key: str) -> Iterator[str]:
    """Yield the keys whose values differ and are not reloadable; never the values."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {**before, **after}:
            inner = f"{key}.{name}" if key else str(name)
            if name in before and name in after:
                yield from _changed_keys(before[name], after[name], inner)
            else:
                yield inner
    elif before != after and key not in _RELOADABLE:
        is_replaced = before is not None and after is not None
        if not (key == _CLIENT_CA and is_replaced):
            yield key
