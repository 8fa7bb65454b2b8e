"""What `ensembled health` does: ask the server of a configuration whether it is ready.

Runs in the process of the command line, on the machine (or in the container) of the server. The
configuration says where the server listens; its answer becomes a line of text or an error.
"""

from __future__ import annotations

import http.client
import ssl

from server.config import Config, TlsConfig
from server.errors import ConfigError, StartError

__all__ = ["ask_ready"]

_PATH = "/v2/health/ready"
#: Where a server that listens everywhere is found from its own machine.
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def ask_ready(config: Config, *, timeout_s: float) -> str:
    """Ask the server of a configuration whether it takes traffic; a line that says so.

    Args:
        config: what the server was started with, its command line apart.
        timeout_s: how long connecting may take, and then the answer.

    Raises:
        ConfigError: if the configuration does not say where the server is.
        StartError: if it is not ready, or does not answer.
    """
    if config.server.http_port == 0:
        raise ConfigError("server.http_port is 0, so nobody knows where the server listens")
    host = _EVERYWHERE.get(config.server.host, config.server.host)
    place = f"{f'[{host}]' if ':' in host else host}:{config.server.http_port}"
    connection = http.client.HTTPConnection(host, config.server.http_port, timeout=timeout_s)
    try:
        if config.server.tls is not None:
            connection = http.client.HTTPSConnection(
                host,
                config.server.http_port,
                timeout=timeout_s,
                context=_client_side(config.server.tls),
            )
        connection.request("GET", _PATH)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise StartError(f"{place} does not answer: {error or type(error).__name__}") from None
    finally:
        connection.close()
    if status != http.client.OK:
        raise StartError(f"{place} is not ready: {_PATH} answers {status}")
    return f"{place} is ready"


def _client_side(tls: TlsConfig) -> ssl.SSLContext:
    """What connects to a server on this machine, whose certificate is made out to other names.

    If the server wants to see a certificate, it is shown its own; it need not be content with it.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if tls.client_ca is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context
