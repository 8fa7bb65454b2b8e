"""The `server.tracing` section: which requests are traced, and where their spans go.

Runs in the process that reads the configuration file; the section flows in as a mapping and out
as a frozen model.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AnyHttpUrl, Field, UrlConstraints

from server.config.base import Section

__all__ = ["TracingConfig"]

_SIGNAL = "/v1/traces"


class TracingConfig(Section):
    """Which requests are traced, and where their spans go.

    A request that comes with a W3C `traceparent` is traced if that says so.
    """

    endpoint: Annotated[AnyHttpUrl, UrlConstraints(preserve_empty_path=False)]
    """URL of a collector that takes OTLP over HTTP, such as `http://localhost:4318`; without a
    path, that is `/v1/traces`."""
    sample: float = Field(default=0.0, ge=0, le=1)
    """Share of the requests without a `traceparent` that are traced."""
    service_name: str = Field(default="ensembled", min_length=1)
    """What the spans say they are from."""

    @property
    def url(self) -> str:
        """The endpoint with its path."""
        url = str(self.endpoint)
        return url if self.endpoint.path not in {None, "", "/"} else url.rstrip("/") + _SIGNAL
