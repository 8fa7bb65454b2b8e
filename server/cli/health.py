"""`ensembled health`: asks the server of a configuration whether it is ready.

Runs in the process of the command line, on the machine (or in the container) of the server. The
configuration says where the server listens; its answer becomes a line of text or an error.
"""

from __future__ import annotations

import http.client
import ssl

from server.config import Config, TlsConfig
from server.errors import ConfigError, StartError

__all__ = ["check_ready", "local_address"]

_PATH = "/v2/health/ready"
#: Where a server that listens on all addresses is reached from its own machine.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def check_ready(config: Config, *, timeout_s: float) -> str:
    """Check that the server of a configuration is ready, and return a line that says so.

    The timeout is for connecting, and then for the answer.

    Raises:
        ConfigError: if the configuration does not say where the server is.
        StartError: if it is not ready, or does not answer.
    """
    port, tls = config.server.http_port, config.server.tls
    if port == 0:
        raise ConfigError("server.http_port is 0, so the port is not known")
    host = _LOOPBACK.get(config.server.host, config.server.host)
    address = local_address(config)
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        if tls is not None:
            context = _client_context(tls)
            connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
        connection.request("GET", _PATH)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise StartError(f"{address} does not answer: {error or type(error).__name__}") from None
    finally:
        connection.close()
    if status != http.client.OK:
        raise StartError(f"{address} is not ready: {_PATH} answers {status}")
    return f"{address} is ready"


def local_address(config: Config) -> str:
    """Return HOST:PORT where the server of a configuration is reached from its own machine."""
    host = _LOOPBACK.get(config.server.host, config.server.host)
    return f"{f'[{host}]' if ':' in host else host}:{config.server.http_port}"


def _client_context(tls: TlsConfig) -> ssl.SSLContext:
    """TLS to a server on this machine, whose certificate is issued for other names.

    If the server demands a client certificate, it is shown its own, which it may reject.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if tls.client_ca is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context
