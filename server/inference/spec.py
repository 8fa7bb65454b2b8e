"""The front-end's spec: how it serves, and the models of the deployment that it serves first.

Made in the supervisor; the first line of JSON on the front-end's stdin. What follows is in
`server.inference.commands`.
"""

from __future__ import annotations

from functools import cached_property, reduce
from operator import or_
from typing import Literal, NamedTuple

import msgspec
from ensembled_client.wire import CLASS_SCORES
from msgspec.structs import replace

from server.engine.spec import QueueLimits, ServedModel
from server.inference.conformal import ConformalSpec
from server.rollout.spec import RolloutSpec
from server.security.spec import SecuritySpec
from server.versions import ModelName
from workers.runtime.spec import (
    COMBINED,
    DeviceSpec,
    GenerationSpec,
    InstanceSpec,
    MemorySpec,
    Preparation,
    TensorSpec,
    TracingSpec,
)

__all__ = [
    "ChangeCounts",
    "ClientLimits",
    "DeploymentSpec",
    "FrontEndSpec",
    "InputSpec",
    "LengthClass",
    "ModelSpec",
    "PredictiveKind",
    "PredictiveSpec",
    "QueueLimits",
    "RepositorySpec",
    "ServedOutput",
    "StoredView",
    "UnservedModel",
    "ValidationSpec",
]


PredictiveKind = Literal["classes", "values", "normal", "quantiles"]

_CLASS, _MASK = "class", "member_mask"


class PredictiveSpec(msgspec.Struct, frozen=True):
    """What an ensemble can say beside its answer: its distribution, intervals, sets of classes.

    Attributes:
        kind: what the members give; `normal` and `values` are combined by the rule `mixture`,
            unless `values` have nothing but conformal intervals.
        levels: of the members' quantiles.
        coverage: where a request names none.
        conformal: what was fitted, if anything was.
    """

    kind: PredictiveKind
    levels: tuple[float, ...] = ()
    coverage: float = 0.9
    conformal: ConformalSpec | None = None

    @property
    def widest_coverage(self) -> float:
        """The limit of the coverage of intervals that nothing was fitted for; 0 for none."""
        if self.kind == "quantiles":
            return round(1 - 2 * max(self.levels[0], 1 - self.levels[-1]), 12)
        return float(self.kind == "normal")


class StoredView(msgspec.Struct, frozen=True):
    """A view of the arena in which an input is stored.

    Attributes:
        view: its index.
        members: mask of the model's members that read it.
        preparation: how an image becomes its pixels; None for a tensor, which is stored as it is.
    """

    view: int
    members: int
    preparation: Preparation | None = None


class InputSpec(msgspec.Struct, frozen=True, dict=True):
    """An input of a model.

    Attributes:
        tensor: as clients send it, without the batch dimension; an image is BYTES [], encoded.
        views: where it is stored: in one view, or an image in one per distinct preparation.
        is_optional: whether clients may leave it out: a mask, which is ones then.
    """

    tensor: TensorSpec
    views: tuple[StoredView, ...]
    is_optional: bool = False

    @cached_property
    def members(self) -> int:
        """Mask of the model's members that need it."""
        return reduce(or_, [view.members for view in self.views])

    @property
    def is_image(self) -> bool:
        """Whether it is an image, which is prepared before it is stored."""
        return self.views[0].preparation is not None


class LengthClass(msgspec.Struct, frozen=True):
    """A model as the engine serves it for rows up to some sizes, in the order of `Arena.dims`."""

    bounds: tuple[int, ...]
    served: ServedModel


class ServedOutput(NamedTuple):
    """An output that clients can ask for.

    Attributes:
        tensor: without the batch dimension.
        source: what it is: combined by a rule, each row's best class, an uncertainty score, a
            member's own prediction, or the mask of members.
        number: of the combined output, the score, or the prediction area.
        labels: of its classes, may be empty.
    """

    tensor: TensorSpec
    source: Literal["combined", "class", "score", "member", "mask"]
    number: int = 0
    labels: tuple[str, ...] = ()


class ModelSpec(msgspec.Struct, frozen=True, dict=True):
    """A model as clients see it.

    Attributes:
        served: the engine's view of it; where sizes vary, for rows of the largest.
        inputs: what clients send: the union of its members' inputs, by name.
        members: names of the members, in the ensemble's order.
        labels: of the main output's classes, may be empty.
        further_labels: those of other outputs that have some, by output.
        gives_classes: whether the main output has a score per class.
        predictive: what it can say beside its answer; None for nothing.
        symbols: the names of sizes that vary from row to row, in the order of `Arena.dims`.
        lengths: its length classes, by ascending sizes, if there are any such.
        variants: of members that run as variants of lower precision, by member, as which one on
            which kind of device.
        generation: of the deployment that it is part of.
    """

    served: ServedModel
    inputs: tuple[InputSpec, ...]
    members: tuple[str, ...]
    labels: tuple[str, ...] = ()
    is_member: bool = False
    predictive: PredictiveSpec | None = None
    symbols: tuple[str, ...] = ()
    lengths: tuple[LengthClass, ...] = ()
    further_labels: dict[str, tuple[str, ...]] = {}
    gives_classes: bool = False
    variants: dict[str, dict[str, str]] = {}
    generation: int = 1

    @cached_property
    def public(self) -> ModelName:
        """What clients call it; several versions of one name may be served."""
        return self.served.public

    @property
    def name(self) -> str:
        """What clients call it, without its version."""
        return self.public.name

    @property
    def version(self) -> str:
        """Its version."""
        return self.public.version

    @cached_property
    def variants_text(self) -> str:
        """Its variants as the parameter of answers, a JSON text; empty if there are none."""
        return msgspec.json.encode(self.variants).decode() if self.variants else ""

    @cached_property
    def takes_images(self) -> bool:
        """Whether one of its inputs is an image."""
        return any(one.is_image for one in self.inputs)

    @cached_property
    def takes_bytes(self) -> bool:
        """Whether one of its inputs is BYTES, images or texts: only the data says their sizes."""
        return any(one.tensor.datatype == "BYTES" for one in self.inputs)

    @cached_property
    def regular_outputs(self) -> dict[str, ServedOutput]:
        """What a request without outputs gets, by name, the main output first."""
        return {
            tensor.name: ServedOutput(tensor, "combined", index, self._labels_of(tensor.name))
            for index, tensor in enumerate(self.served.spec.outputs)
        }

    @cached_property
    def extra_outputs(self) -> dict[str, ServedOutput]:
        """What can be had on request beside it, by name; of a member what is not combined."""
        spec = self.served.spec
        extras = {} if self.is_member else self._ensemble_outputs()
        combined = {number for rule in spec.rules for number in rule.inputs}
        for area, (position, prediction) in spec.areas.items():
            if self.is_member and spec.predictions.index(prediction) in combined:
                continue
            own = prediction.tensor
            name = f"{own.name}.{self.members[position]}"
            tensor = replace(own, name=name)
            extras[name] = ServedOutput(tensor, "member", area, self._labels_of(own.name))
        return {name: one for name, one in extras.items() if name not in self.regular_outputs}

    def _ensemble_outputs(self) -> dict[str, ServedOutput]:
        """The best class, the uncertainty scores and the mask of an ensemble."""
        spec = self.served.spec
        extras: dict[str, ServedOutput] = {}
        if spec.scores == CLASS_SCORES and len(spec.output.shape) == len(spec.predicted.shape):
            tensor = replace(spec.score, name=_CLASS, datatype="INT64")
            extras[_CLASS] = ServedOutput(tensor, "class")
        for index, name in enumerate(spec.scores):
            extras[name] = ServedOutput(replace(spec.score, name=name), "score", index)
        mask = TensorSpec(_MASK, "BOOL", (len(self.members),))
        extras[_MASK] = ServedOutput(mask, "mask")
        return extras

    @cached_property
    def outputs(self) -> dict[str, ServedOutput]:
        """All by name; the main one and what members predict of it can be called `output`, too."""
        named = {**self.extra_outputs, **self.regular_outputs}
        main = self.served.spec.predicted.name
        aliases = {COMBINED: next(iter(self.regular_outputs))}
        for member in self.members:
            if f"{main}.{member}" in named:
                aliases[f"{COMBINED}.{member}"] = f"{main}.{member}"
        return {**{alias: named[name] for alias, name in aliases.items()}, **named}

    def _labels_of(self, output: str) -> tuple[str, ...]:
        main = self.served.spec
        is_main = output in (main.output.name, main.predicted.name)
        return self.labels if is_main else self.further_labels.get(output, ())


class ClientLimits(msgspec.Struct, frozen=True):
    """Limits of clients; see `server.config.LimitsConfig`.

    `connections` are over HTTP at once, None for what the file descriptors allow.
    """

    header_s: float = 10.0
    header_bytes: int = 64 << 10
    body_s: float = 60.0
    idle_s: float = 75.0
    write_s: float = 30.0
    connections: int | None = None
    calls: int = 4096
    waiting_bytes: int = 512 << 20
    unread_bytes: int = 512 << 20


class ValidationSpec(msgspec.Struct, frozen=True):
    """Rows on which the answers of a model must stay what they are before it is replaced.

    Attributes:
        model: its `served.name`.
        key: of its section in the configuration.
        path: the file of rows.
        max_disagreement: the largest share of them that may be answered differently.
        tolerance: by how much values may differ, see `server.rollout.agreement.compare`.
    """

    model: str
    key: str
    path: str
    max_disagreement: float
    tolerance: float


class UnservedModel(NamedTuple):
    """A version of a model that the configuration has, but which is not served, and why not."""

    name: str
    version: str
    reason: str


class DeploymentSpec(msgspec.Struct, frozen=True):
    """What is served together.

    Attributes:
        instances: of the models' members, by device.
        rollouts: new versions of models that are tried, at most one of each.
        unserved: what the configuration has beside the models.
        is_observed: whether its traffic is reported to the supervisor.
    """

    generation: GenerationSpec
    instances: dict[str, tuple[InstanceSpec, ...]]
    models: tuple[ModelSpec, ...]
    validations: tuple[ValidationSpec, ...] = ()
    rollouts: tuple[RolloutSpec, ...] = ()
    unserved: tuple[UnservedModel, ...] = ()
    is_observed: bool = False


class RepositorySpec(msgspec.Struct, frozen=True):
    """What clients may change of the models; see `server.config.RepositoryConfig`.

    `uploads` is the directory below which the files of a load are put.
    """

    allows_control: bool = False
    allows_overrides: bool = False
    uploads: str = ""


class ChangeCounts(msgspec.Struct, frozen=True):
    """What became of the changes of what is served, since the server started.

    Attributes:
        succeeded: how many, also of those that had nothing to change.
        refused: how many the client or the configuration asked for wrongly.
        failed: how many others did not come up.
        error: of the last one, empty if it succeeded.
    """

    succeeded: int = 0
    refused: int = 0
    failed: int = 0
    error: str = ""


class FrontEndSpec(msgspec.Struct, frozen=True):
    """Everything that a front-end is told at its start.

    Attributes:
        epoch: grows with every front-end.
        workers: alive when it starts, as (device, incarnation).
        starting: devices of workers that it does not wait for: they hold no jobs yet.
        http_fd: the listening socket, inherited.
        grpc_address: where to listen for gRPC; the supervisor holds the port.
        drain_delay_s: how long requests are still accepted after readiness is withdrawn.
        tracing: where spans are exported, None for no tracing.
        refuses_unknown_parameters: whether a request with a parameter that nobody knows is invalid.
    """

    epoch: int
    workers: tuple[tuple[str, int], ...]
    starting: tuple[str, ...]
    devices: tuple[DeviceSpec, ...]
    memory: MemorySpec
    sockets: str
    deployment: DeploymentSpec
    http_fd: int
    grpc_address: str
    max_request_bytes: int
    max_json_bytes: int
    queue: QueueLimits
    max_image_pixels: int
    limits: ClientLimits
    drain_delay_s: float
    access_log: Literal["none", "errors", "all"]
    tracing: TracingSpec | None = None
    security: SecuritySpec = SecuritySpec()
    refuses_unknown_parameters: bool = True
    changes: ChangeCounts = ChangeCounts()
    repository: RepositorySpec = RepositorySpec()
