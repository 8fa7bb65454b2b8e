"""Finds out whether traces can be sent.

Runs at the start, in the process that becomes the supervisor; the configuration flows in, what
front-end and workers need to know flows out.
"""

from __future__ import annotations

from importlib.util import find_spec

from server.config import Config
from server.errors import ConfigError
from workers.runtime.spec import TracingSpec

__all__ = ["tracing_spec"]

_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


def tracing_spec(config: Config) -> TracingSpec | None:
    """Where spans go; None if nothing is to be traced.

    Raises:
        ConfigError: if packages are missing that tracing needs.
    """
    tracing = config.server.tracing
    if tracing is None:
        return None
    if not all(map(_is_there, _PACKAGES)):
        raise ConfigError(
            "server.tracing: OpenTelemetry is not installed; `pip install '.[tracing]'`, "
            "or leave the section out"
        )
    return TracingSpec(tracing.url, tracing.service_name, tracing.sample)


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # a package that should hold it is missing
        return False
