"""The `devices` and `server` sections: what predictions run on, and how the server listens.

Runs in the process that reads the configuration file; the sections flow in as mappings, with
the environment's overrides already in `server`, and out as frozen models.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import ByteSize, Field, field_validator, model_validator

from server.config.base import Bytes, Section

__all__ = ["DeviceConfig", "ServerConfig"]

_DEVICE = re.compile(r"(cpu|cuda):(0|[1-9][0-9]*)")

Port = Annotated[int, Field(ge=0, le=65535)]


class DeviceConfig(Section):
    """A device that runs predictions: a GPU, or a group of CPU cores."""

    name: str
    """`cuda:N`, where N is the index of the GPU, or `cpu:N`."""
    cores: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(default=None, min_length=1)
    """Core ids, for CPU devices only; if absent, the only CPU device takes all cores."""
    memory_bytes: Bytes | None = None
    """Memory that its instances may take together, e.g. `4GiB`; if absent, what is there."""

    @property
    def is_cuda(self) -> bool:
        """Whether this is a GPU."""
        return self.name.startswith("cuda:")

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _DEVICE.fullmatch(name):
            raise ValueError(f"should be cpu:N or cuda:N, not {name!r}")
        return name

    @field_validator("cores")
    @classmethod
    def _refuse_repetition(cls, cores: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if cores is not None and len(set(cores)) < len(cores):
            raise ValueError("a core is listed more than once")
        return cores

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_cuda and self.cores is not None:
            raise ValueError("cores are for CPU devices only, remove them")
        return self


class ServerConfig(Section):
    """How the server listens and what it accepts."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on; `0.0.0.0` is every IPv4 address."""
    http_port: Port = 8000
    """Port for HTTP; 0 is any free one."""
    grpc_port: Port = 8001
    """Port for gRPC, which this version does not serve yet: nothing listens there."""
    arena_bytes: Bytes | None = None
    """Shared memory for the rows in flight; if absent, 256 MiB or 10% of the memory if less."""
    max_request_bytes: Bytes = ByteSize(64 << 20)
    """Largest request body, after decompression."""
    max_waiting_requests: int = Field(default=1024, ge=0)
    """How many requests may wait for space in the arena before others are refused (429)."""
    max_image_pixels: int = Field(default=50_000_000, ge=1)
    """Largest image, height times width, that is decoded."""
    drain_s: float = Field(default=30.0, ge=0)
    """Grace period for the requests in flight when the server is told to stop."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, level: Any) -> Any:
        return level.lower() if isinstance(level, str) else level

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.http_port == self.grpc_port != 0:
            raise ValueError(f"http_port and grpc_port are both {self.http_port}, change one")
        return self
