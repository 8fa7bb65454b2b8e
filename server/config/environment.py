"""The variables of the environment that begin with ``ENSEMBLED_``: which have a meaning.

Runs in the process that reads the configuration file. A variable that is mistyped, or sets what
only the file can, would otherwise be ignored without a word.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping

from server.errors import ConfigError, did_you_mean

__all__ = ["NESTED", "PREFIX", "check_variables"]

PREFIX = "ENSEMBLED_"
NESTED = "__"
_SERVER = f"{PREFIX}SERVER"
#: Of the command line, the client and the cache; and those that a parent sets for its children.
_KNOWN = ("CONFIG", "URL", "API_KEY", "CACHE", "SERVER", "LOG_LEVEL", "LOG_FORMAT")
#: What Kubernetes and Docker set about a service whose name begins with `ensembled`.
_SERVICE = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)$")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")

_log = logging.getLogger(__name__)


def check_variables(variables: Mapping[str, str], server_keys: Iterable[str]) -> None:
    """Check variables by name: all others than those with the prefix are left alone.

    One in the form of a key outside the section `server` is an error. Any other that is unknown
    may belong to somebody else: it is logged as a warning.

    Raises:
        ConfigError: which names the variables, and the nearest.
    """
    known = [f"{PREFIX}{name}" for name in _KNOWN]
    choices = [*known, *(f"{_SERVER}{NESTED}{key.upper()}" for key in server_keys)]
    problems = []
    for variable, value in sorted(variables.items()):
        name = variable.upper()
        is_ours = name.startswith(PREFIX) and value and name not in known
        if not is_ours or name.startswith(f"{_SERVER}{NESTED}") or _is_of_service(name, value):
            continue
        hint = did_you_mean(name, choices)
        if NESTED in name:
            section = name.removeprefix(PREFIX).partition(NESTED)[0]
            problems.append(
                f"environment: {variable}: only keys of `server` can be set by the environment, as "
                f"{_SERVER}{NESTED}KEY{hint if did_you_mean(section, ['SERVER']) else ''}"
            )
        else:
            _log.warning("environment: %s has no meaning here%s", variable, hint)
    if problems:
        raise ConfigError(problems)


def _is_of_service(name: str, value: str) -> bool:
    return _SERVICE.search(name) is not None or _SERVICE_ADDRESS.match(value) is not None
