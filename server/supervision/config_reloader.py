"""Reads the configuration again, and finds out what of its section `server` can change.

Runs in the supervisor. SIGHUP flows in, even one that arrives before the server is up; what the
front-end applies flows out. Keys, certificates, the limit per client and the log level can change;
any other change of that section is a warning. What is served is `server.supervision.changes`' part.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import msgspec

from server.config import Config
from server.config.amendments import with_model
from server.errors import ConfigError
from server.inference.commands import Reload
from server.security.credentials import read_credentials
from server.security.spec import SecuritySpec

__all__ = ["ConfigReloader", "ReadConfig"]


#: Returns the configuration on the disk, or the one in a document that was read from there before;
#: with the overrides of environment and command line, and its versions not expanded.
ReadConfig = Callable[[Mapping[str, Any] | None], Config]

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

    `credentials` are those in `config`; a SIGHUP since the last time makes a reload `is_due`.

    Raises:
        ConfigError: if a key or a certificate is not valid.
    """

    def __init__(self, config: Config, read: ReadConfig) -> None:
        self._server = config.server
        self._read = read
        self.credentials = read_credentials(config.server)
        self._running = self.credentials.spec
        self.is_due = False
        signal.signal(signal.SIGHUP, self._on_sighup)

    def read(self) -> Config:
        """Read the configuration.

        Raises:
            ConfigError: if it is wrong.
        """
        self.is_due = False
        return self._read(None)

    def read_model(self, base: Config, model: str) -> Config:
        """Read one model's section anew, in a configuration that stays as it is otherwise.

        Raises:
            ConfigError: if the configuration on the disk, or with that section, is wrong.
        """
        document = with_model(base.document, self._read(None).document, model)
        return base if document == base.document else self._read(document)

    def changes(self, config: Config) -> tuple[Reload, tuple[str, ...]]:
        """Return what the front-end applies of a configuration, and warnings.

        Raises:
            ConfigError: if a key or a certificate is not valid, or there are no keys any more.
        """
        try:
            credentials = read_credentials(config.server)
        except OSError as error:
            raise ConfigError(f"server: {error}") from None
        reload = Reload(_reloaded(self._running, credentials.spec), config.server.log_level)
        keys = _changed_keys(self._server.model_dump(), config.server.model_dump(), "server")
        restarts = (f"{key} has changed, which requires a restart" for key in keys)
        return reload, (*credentials.warnings, *restarts)

    def accept(self, reload: Reload) -> None:
        """Take what the front-end applies as what is running."""
        self._running = reload.security

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
