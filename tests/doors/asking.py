"""What all tests of doors do: serve members, and ask them over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ensembled_client import EnsembleClient

from tests.support.serving import Server, configuration, running


@contextmanager
def served(members: Mapping[str, Any], directory: Path) -> Iterator[Server]:
    """A server of members whose paths are relative to a directory, without an ensemble."""
    config = configuration(dict(members), where=dict.fromkeys(members, 0))
    del config["ensembles"]
    with running(config, directory) as server:
        yield server


def answers(server: Server, model: str, x: Any) -> np.ndarray:
    """What a member answers, the same by both protocols."""
    found = []
    for url in (server.url, f"grpc://{server.grpc}"):
        with EnsembleClient(url) as client:
            found.append(client.predict(model, x).values)
    np.testing.assert_array_equal(found[0], found[1])
    return found[0]
