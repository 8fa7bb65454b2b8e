"""What `ensembled key` does: make an API key.

Runs in the process of the command line; randomness flows in, a key and its entry in the
configuration flow out. The server never learns the key itself, only its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import NamedTuple

from pydantic import ValidationError

from server.config import ApiKeyConfig
from server.config.problems import describe
from server.errors import ConfigError

__all__ = ["NewKey", "make_key"]

#: 32 random bytes can't be guessed, so that a hash which is quick to compute keeps them as well as
#: a slow one would.
_BYTES = 32
#: So that people, and programs that look for secrets in the wrong places, know what it is.
_PREFIX = "ensembled_"


class NewKey(NamedTuple):
    """A key that nobody knows yet.

    Attributes:
        key: what the client shows.
        entry: what the server is told, an element of a YAML list.
    """

    key: str
    entry: str


def make_key(name: str, scopes: tuple[str, ...]) -> NewKey:
    """Make a key.

    Raises:
        ConfigError: if the name can't be one.
    """
    key = _PREFIX + secrets.token_urlsafe(_BYTES)
    value = {
        "name": name,
        "hash": "sha256:" + hashlib.sha256(key.encode()).hexdigest(),
        "scopes": scopes,
    }
    try:
        ApiKeyConfig.model_validate(value)
    except ValidationError as error:
        raise ConfigError(text for _, text in describe(error, ApiKeyConfig)) from None
    return NewKey(key, f"- {json.dumps(value)}")  # JSON is YAML
