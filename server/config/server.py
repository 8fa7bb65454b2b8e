"""The `server` section and those inside it: network, limits, TLS, API keys, logs and traces.

Runs in the process that reads the configuration file; the section flows in as a mapping, with the
environment's overrides applied, and out as a frozen model. No message about TLS or API keys repeats
a value: people paste keys where hashes belong.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AnyHttpUrl,
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    SecretStr,
    Tag,
    UrlConstraints,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from server.config.base import Bytes, Name, RelativePath, Section
from server.config.repository import RepositoryConfig

__all__ = ["ApiKeyConfig", "LimitsConfig", "ServerConfig", "TlsConfig", "TracingConfig"]

_HASH_PATTERN = "sha256:[0-9a-f]{64}"
_TRACES_PATH = "/v1/traces"


def _check_hash(value: Any) -> Any:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str) or not re.fullmatch(_HASH_PATTERN, text):
        raise ValueError("should be sha256: and 64 hexadecimal digits, see `ensembled key`")
    return value


def _refuse_contents(value: Any) -> Any:
    if "\n" in str(value):
        raise ValueError("should be the path of a file, not what is in it")
    return value


Port = Annotated[int, Field(ge=0, le=65535)]

SecretFile = Annotated[RelativePath, BeforeValidator(_refuse_contents)]

KeyHash = Annotated[
    SecretStr,
    BeforeValidator(_check_hash),
    WithJsonSchema({"type": "string", "pattern": f"^{_HASH_PATTERN}$"}),
]

KeyScope = Literal["infer", "admin", "urgent"]


class LimitsConfig(Section):
    """How much of the server's time and memory clients may use."""

    queue_s: PositiveFloat = 10.0
    """A request is refused at once (429) if the work queued before it is expected to take longer,
    or if it could not be answered by its own deadline."""
    waiting_rows: int = Field(default=65536, ge=1)
    """Rows that the requests waiting for space in the arena may have in total, for each model and
    priority, before others are refused (429); a single request may have more."""
    header_s: PositiveFloat = 10.0
    """Time for a request's headers to arrive, from their first byte (408, over HTTP only)."""
    header_bytes: Bytes = Field(default=64 << 10, ge=1024)
    """Largest headers of a request (431), and largest metadata of a call over gRPC."""
    body_s: PositiveFloat = 60.0
    """Time for a request's body, or a call's message, to arrive (408)."""
    idle_s: PositiveFloat = 75.0
    """A connection without a request in progress is closed after this time."""
    write_s: PositiveFloat = 30.0
    """Time for a client to read its answer; then its connection is closed."""
    connections: int | None = Field(default=None, ge=1)
    """How many HTTP connections may be open; others are refused (503). If absent, three quarters
    of the file descriptors that the operating system allows, 65536 at most."""
    calls: int = Field(default=4096, ge=1)
    """How many calls may be open over gRPC, at most half of them streams; others are refused
    (RESOURCE_EXHAUSTED)."""
    waiting_bytes: Bytes = 512 << 20
    """Memory for requests' bodies from their arrival until they are answered; beyond that, others
    are refused (429). Bodies that arrive in one piece of less than 64 KiB, as most do, are not
    counted. Decoded images may use as much again; a request whose images alone would use more is
    refused (413). Answers may use as much again while they are assembled."""
    unread_bytes: Bytes = Field(default=512 << 20, ge=1 << 20)
    """Memory for answers that clients do not read: beyond that, connections that hold more than an
    equal share are closed, those that have waited longest first. Make it several times the largest
    answer. Less than 64 KiB on an HTTP connection, or in a gRPC call, is not counted."""
    client_requests: NonNegativeInt = 0
    """How many requests of one client may be in flight at once; others are refused (429). 0 is no
    limit. A client is an API key; without keys, the name in its certificate, or its address."""


class TracingConfig(Section):
    """Which requests are traced, and where their spans are exported.

    A request with a W3C `traceparent` is traced if that says so.
    """

    endpoint: Annotated[AnyHttpUrl, UrlConstraints(preserve_empty_path=False)]
    """URL of a collector that accepts OTLP over HTTP, such as `http://localhost:4318`; without a
    path, that is `/v1/traces`."""
    sample: float = Field(default=0.0, ge=0, le=1)
    """Share of the requests without a `traceparent` that are traced."""
    service_name: str = Field(default="ensembled", min_length=1)
    """The service name of the spans."""

    @property
    def url(self) -> str:
        """The endpoint with its path."""
        url = str(self.endpoint)
        is_bare = self.endpoint.path in {None, "", "/"}
        return url.rstrip("/") + _TRACES_PATH if is_bare else url


class TlsConfig(Section):
    """PEM files for the encryption of HTTP and gRPC; reloaded on SIGHUP."""

    certificate: SecretFile
    """The server's certificate, followed by any intermediate certificates."""
    key: SecretFile
    """The certificate's private key, not encrypted; only its owner should be able to read it."""
    client_ca: SecretFile | None = None
    """CA certificates: only clients with a certificate signed by one of these CAs may connect."""


class ApiKeyConfig(Section):
    """An API key that clients may present; `ensembled key NAME` creates one, and its entry."""

    name: Name
    """Name of its holder, for logs and limits."""
    hash: KeyHash
    """`sha256:` and the SHA-256 of the key, in hexadecimal digits."""
    scopes: tuple[KeyScope, ...] = Field(default=("infer",), min_length=1)
    """What it permits: `infer` is inference; `admin` is statistics, metrics, the list of all
    models, changes of what is served, and the API's description; `urgent`, beside `infer`, is
    inference with `priority: 1`, which needs no scope as long as no key has this one. Any key may
    read a model's metadata."""


class ServerConfig(Section):
    """How the server listens and what it accepts."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on; `0.0.0.0` is every IPv4 address (gRPC then also listens on IPv6)."""
    http_port: Port = 8000
    """Port for HTTP; 0 chooses a free one."""
    grpc_port: Port = 8001
    """Port for gRPC."""
    arena_bytes: Bytes | None = None
    """Shared memory for the rows in flight; if absent, 256 MiB or 10% of the memory if less."""
    bell: Literal["eventfd", "zmq"] = "eventfd"
    """How processes of the server wake each other: by the kernel's event counters, or by empty
    ZeroMQ messages, which is slower."""
    max_request_bytes: Bytes = 64 << 20
    """Largest body over HTTP (as received, and decompressed), and largest message over gRPC."""
    max_json_bytes: Bytes = 16 << 20
    """Largest JSON in a body over HTTP, which takes longer to read than binary tensors do."""
    max_waiting_requests: NonNegativeInt = 1024
    """How many requests may wait for space in the arena, for each model and priority, before others
    are refused (429)."""
    unknown_parameters: Literal["refuse", "ignore"] = "refuse"
    """What happens to a request with a parameter that neither the server nor the protocol knows,
    such as a typo: it is refused (400), or the parameter is ignored."""
    max_image_pixels: int = Field(default=50_000_000, ge=1)
    """Largest image, height times width, that is decoded."""
    limits: LimitsConfig = LimitsConfig()
    """How much of the server's time and memory clients may use."""
    tls: TlsConfig | None = None
    """Encryption of HTTP and gRPC; if absent, neither is encrypted."""
    api_keys: tuple[ApiKeyConfig, ...] = ()
    """The API keys, one of which clients must present; if there are none, no key is needed."""
    api_keys_file: SecretFile | None = None
    """A file with more API keys, a list like `api_keys`; reloaded on SIGHUP."""
    drain_s: NonNegativeFloat = 30.0
    """Grace period for the requests in flight when the server is told to stop."""
    drain_delay_s: NonNegativeFloat = 0.0
    """When told to stop, the server reports that it is not ready, but accepts requests for this
    long, so that load balancers can notice."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""
    log_format: Literal["human", "json"] = "human"
    """Whether a log line is for people or a JSON object."""
    access_log: Literal["none", "errors", "all"] = "errors"
    """Which infer requests are logged: those that failed through no fault of the client (5xx; many
    in a short time share a few lines), or all."""
    watch: bool = False
    """Whether the server watches the files that it serves (the configuration, models, labels,
    rules, keys) and reloads when they change, see [changes.md](changes.md)."""
    watch_debounce_s: PositiveFloat = 0.2
    """With `watch`: a reload begins when no file has changed for this long."""
    state_file: RelativePath | None = None
    """Where the server keeps what it serves, in case it is killed; if absent, in the cache
    directory. See [changes.md](changes.md)."""
    history: Annotated[
        Annotated[Literal["auto", "none"], Tag("<name>")] | Annotated[RelativePath, Tag("<file>")],
        Discriminator(lambda given: "<name>" if given in ("auto", "none") else "<file>"),
    ] = "auto"
    """The database (SQLite) in which the server keeps what it has served, a record per minute of a
    week at most: a file, or `auto` for one in the cache directory. See [history.md](history.md)."""
    tracing: TracingConfig | None = None
    """Traces of requests, for OpenTelemetry; if absent, there are none."""
    repository: RepositoryConfig = RepositoryConfig()
    """What clients may change of the models that are served."""

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
