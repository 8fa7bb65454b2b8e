"""The API key that a load test shows; from the environment, where no list of processes has it.

Used wherever requests are made.
"""

from __future__ import annotations

import os

from ensembled_client.addresses import with_api_key
from ensembled_client.errors import EnsembledClientError
from ensembled_client.load.errors import UsageError

__all__ = ["VARIABLE", "authorization", "metadata"]

VARIABLE = "ENSEMBLED_API_KEY"


def authorization() -> dict[str, str]:
    """The header that shows the key, if there is one.

    Raises:
        UsageError: if it can't be one.
    """
    try:
        return with_api_key(None, os.environ.get(VARIABLE) or None)
    except EnsembledClientError as error:
        raise UsageError(f"{VARIABLE}: {error.message}") from None


def metadata() -> tuple[tuple[str, str], ...]:
    """The same for gRPC.

    Raises:
        UsageError: as `authorization`.
    """
    return tuple((name.lower(), text) for name, text in authorization().items())
