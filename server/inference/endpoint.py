"""What requests to one model go to, and the deployment that it is part of.

Used in the front-end, under every protocol. Deployments come and go; the counters of a model go on.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from server.engine.request import Answer
from server.engine.statistics import ModelCounters
from server.inference.spec import DeploymentSpec, ModelSpec

__all__ = ["Deployment", "Endpoint"]


class Endpoint:
    """A model that clients can request, with the counters of its requests.

    Attributes:
        is_open: whether requests may go to it that were meant for it when their head was read, or
            when another one like them was; otherwise the model is looked up anew.
        pins: how many requests will go to it, or have, that are not answered yet; but for those
            whose way into the engine has no pause.
    """

    def __init__(self, model: ModelSpec, counters: ModelCounters | None = None) -> None:
        self.model = model
        self.counters = ModelCounters() if counters is None else counters
        self.is_open = True
        self.pins = 0

    def succeed(self, arrived: float, answer: Answer) -> None:
        """Count a request with a response; `arrived` is when its body had been received."""
        self.counters.succeed(arrived, answer)

    def fail(self, arrived: float, error: BaseException) -> None:
        """Count a request that gets an error, or whose client has gone."""
        self.counters.fail(arrived, error)


class Deployment:
    """The models of one generation.

    Attributes:
        endpoints: by the internal name of their model.
        versions: by a model's name and its version, the newest first.
        candidates: by a model's name, where requests without a version may go, the newest first:
            to none that is rolled out.
    """

    def __init__(self, spec: DeploymentSpec, counters: Mapping[str, ModelCounters]) -> None:
        self.spec = spec
        self.generation = spec.generation.number
        self.endpoints = {
            model.served.name: Endpoint(
                replace(model, generation=self.generation), counters.get(model.served.name)
            )
            for model in spec.models
        }
        self.versions: dict[str, dict[str, Endpoint]] = {}
        newest_first = sorted(
            self.endpoints.values(), key=lambda one: int(one.model.version), reverse=True
        )
        for endpoint in newest_first:
            model = endpoint.model
            self.versions.setdefault(model.name, {})[model.version] = endpoint
        tried = {rollout.model: rollout.version for rollout in spec.rollouts}
        self.candidates = {
            name: [one for version, one in versions.items() if version != tried.get(name)]
            or [*versions.values()]
            for name, versions in self.versions.items()
        }

    @property
    def is_pinned(self) -> bool:
        """Whether requests are on their way to it."""
        return any(endpoint.pins for endpoint in self.endpoints.values())

    @property
    def counters(self) -> dict[str, ModelCounters]:
        """Those of its models, by internal name."""
        return {name: endpoint.counters for name, endpoint in self.endpoints.items()}
