"""`ensembled key`: makes an API key.

Runs in the process of the command line; randomness flows in, a key and its entry in the
configuration flow out. The server never learns the key itself, only its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import ValidationError

from server.config import ApiKeyConfig
from server.config.problems import describe
from server.errors import ConfigError

__all__ = ["NewKey", "make_key"]

#: 32 random bytes can't be guessed, so a fast hash protects them as well as a slow one.
_RANDOM_BYTES = 32
#: Lets people and secret scanners recognise a key.
_PREFIX = "ensembled_"


class NewKey(NamedTuple):
    """What the client sends, and the element of a YAML list that the server is configured with."""

    key: str
    entry: str


def make_key(name: str, scopes: Sequence[str]) -> NewKey:
    """Make a key.

    Raises:
        ConfigError: if the name is not valid.
    """
    key = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    value = {
        "name": name,
        "hash": "sha256:" + hashlib.sha256(key.encode()).hexdigest(),
        "scopes": scopes,
    }
    try:
        ApiKeyConfig.model_validate(value)
    except ValidationError as error:
        raise ConfigError(text for _, text in describe(error)) from None
    return NewKey(key, f"- {json.dumps(value)}")  # JSON is YAML
