"""The index of the model repository: every version of every model, and its state.

Runs in the front-end, under every protocol; pure. Deployments flow in, the protocol's entries flow
out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from server.inference.endpoint import Deployment, Endpoint
from server.versions import ModelName

__all__ = ["repository_index"]

_NO_QUORUM = "too few of its members are up for its quorum"


def repository_index(
    current: Deployment, others: Iterable[Deployment], can_answer: Callable[[Endpoint], bool]
) -> list[dict[str, Any]]:
    """Return the entries of a repository index.

    Args:
        current: the deployment that gets the requests.
        others: those that are prepared, with higher numbers, or not idle yet, with lower ones.
        can_answer: whether a model of the current one takes traffic.
    """
    entries: dict[ModelName, tuple[str, str]] = {}
    for endpoint in current.endpoints.values():
        state = ("READY", "") if can_answer(endpoint) else ("UNAVAILABLE", _NO_QUORUM)
        entries[endpoint.model.public] = state
    for name, state in _passing(current, others):
        entries.setdefault(name, state)
    for one in current.spec.unserved:
        entries.setdefault(ModelName(one.name, one.version), ("UNAVAILABLE", one.reason))
    return [
        {"name": name, "version": version, "state": state, "reason": reason}
        for (name, version), (state, reason) in entries.items()
    ]


def _passing(
    current: Deployment, others: Iterable[Deployment]
) -> Iterator[tuple[ModelName, tuple[str, str]]]:
    """Yield the models of deployments that are about to be served, or were."""
    for other in others:
        if other.generation > current.generation:
            state = ("LOADING", "it is served as soon as everything is loaded")
        else:
            state = ("UNLOADING", "its last requests are answered")
        for endpoint in other.endpoints.values():
            yield endpoint.model.public, state
