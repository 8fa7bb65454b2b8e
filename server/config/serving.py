"""The `server` section: how the server listens, and what it accepts.

Runs in the process that reads the configuration file; the section flows in as a mapping, with the
environment's overrides already in it, and out as a frozen model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ByteSize, Field, field_validator, model_validator

from server.config.base import Bytes, Section
from server.config.limits import LimitsConfig
from server.config.observability import TracingConfig
from server.config.security import ApiKeyConfig, SecretFile, TlsConfig

__all__ = ["ServerConfig"]

Port = Annotated[int, Field(ge=0, le=65535)]


class ServerConfig(Section):
    """How the server listens and what it accepts."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on; `0.0.0.0` is every IPv4 address (gRPC takes IPv6 with it)."""
    http_port: Port = 8000
    """Port for HTTP; 0 is any free one."""
    grpc_port: Port = 8001
    """Port for gRPC."""
    arena_bytes: Bytes | None = None
    """Shared memory for the rows in flight; if absent, 256 MiB or 10% of the memory if less."""
    bell: Literal["eventfd", "zmq"] = "eventfd"
    """How processes of the server wake each other: by the kernel's event counters, or by empty
    ZeroMQ messages, which is slower."""
    max_request_bytes: Bytes = ByteSize(64 << 20)
    """Largest body over HTTP (as it comes, and decompressed), and largest message over gRPC."""
    max_waiting_requests: int = Field(default=1024, ge=0)
    """How many requests may wait for space in the arena, for each model and priority, before others
    are refused (429)."""
    max_image_pixels: int = Field(default=50_000_000, ge=1)
    """Largest image, height times width, that is decoded."""
    limits: LimitsConfig = LimitsConfig()
    """What clients may take of the server's time and memory."""
    tls: TlsConfig | None = None
    """Encryption of HTTP and gRPC; if absent, neither is encrypted."""
    api_keys: tuple[ApiKeyConfig, ...] = ()
    """The API keys, of which clients must show one; if there are none, nobody has to."""
    api_keys_file: SecretFile | None = None
    """A file with more API keys, a list like `api_keys`; SIGHUP has it read anew."""
    drain_s: float = Field(default=30.0, ge=0)
    """Grace period for the requests in flight when the server is told to stop."""
    drain_delay_s: float = Field(default=0.0, ge=0)
    """When it is told to stop, the server is not ready at once, but accepts requests for so long,
    until those who send them have noticed."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""
    log_format: Literal["human", "json"] = "human"
    """Whether a line of the log is for people or one JSON object."""
    access_log: Literal["none", "errors", "all"] = "errors"
    """Which infer requests have a line in the log: those that failed by no fault of their own
    (5xx; a flood of them has a few lines), or all."""
    tracing: TracingConfig | None = None
    """Traces of requests, for OpenTelemetry; if absent, there are none."""

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, level: Any) -> Any:
        return level.lower() if isinstance(level, str) else level

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.http_port == self.grpc_port != 0:
            raise ValueError(f"http_port and grpc_port are both {self.http_port}, change one")
        if self.limits.waiting_bytes < self.max_request_bytes:
            raise ValueError(
                f"limits.waiting_bytes is {self.limits.waiting_bytes}, less than max_request_bytes "
                f"({self.max_request_bytes}): make it as large, at least"
            )
        return self

    def files(self) -> dict[str, Path]:
        """The files that the section names, by their keys."""
        files = {"api_keys_file": self.api_keys_file}
        if self.tls is not None:
            files |= {f"tls.{key}": getattr(self.tls, key) for key in type(self.tls).model_fields}
        return {key: path for key, path in files.items() if path is not None}
