"""A model's metadata as a client caches it, and predictions made of responses. Pure.

Runs in the caller's process. The documents of metadata and configuration and decoded responses flow
in; the names of outputs to request and predictions flow out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ensembled_client.errors import RequestRejected, ServerFailure
from ensembled_client.prediction import Prediction, Timing
from ensembled_client.requests import CLASS, OUTPUT
from ensembled_client.wire import InferResponse

__all__ = ["SCORES", "ModelInfo", "ModelState", "prediction_of"]

#: The uncertainty scores of an ensemble of classifiers.
SCORES = (
    "entropy",
    "expected_entropy",
    "mutual_information",
    "variance",
    "vote_share",
    "disagreement",
)

_MASK = "member_mask"
_LIMIT = "max_request_bytes"


@dataclass(frozen=True)
class ModelState:
    """An entry of the server's model index.

    Attributes:
        name: an ensemble or a member.
        state: "READY" if it takes traffic, else "UNAVAILABLE" or what the server says.
        version: of the model.
        reason: why it is not ready, "" if it is.
    """

    name: str
    state: str
    version: str = "1"
    reason: str = ""

    @property
    def is_ready(self) -> bool:
        """Whether it takes traffic."""
        return self.state == "READY"


@dataclass(frozen=True)
class ModelInfo:
    """A model, by its metadata and configuration.

    Attributes:
        metadata: name, inputs, outputs.
        max_request_bytes: the server's limit of a request, None if it does not say.
        members: of an ensemble.
        labels: of classes.
        extra_outputs: what can be requested beside `output`; None if the server does not say.
    """

    metadata: Mapping[str, Any]
    max_request_bytes: int | None = None
    members: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    extra_outputs: tuple[str, ...] | None = None

    @classmethod
    def of(cls, metadata: Mapping[str, Any], config: Mapping[str, Any]) -> ModelInfo:
        """Parse the two documents; the configuration of another kind of server may be empty.

        Raises:
            ServerFailure: if they can't be understood.
        """
        try:
            ensemble = config.get("ensemble", {})
            parameters = {
                name: value["string_value"] for name, value in config.get("parameters", {}).items()
            }
            extra = ensemble.get("extra_outputs", _listed(parameters, "extra_outputs", ","))
            if extra is not None:
                extra = tuple(one if isinstance(one, str) else one["name"] for one in extra)
            limit = int(parameters.get(_LIMIT, 0))
            return cls(
                metadata={"inputs": list(metadata["inputs"])},
                max_request_bytes=limit if limit > 0 else None,
                members=tuple(ensemble.get("members", _listed(parameters, "members", ",") or ())),
                labels=tuple(ensemble.get("labels", _listed(parameters, "labels", "\n") or ())),
                extra_outputs=extra,
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ServerFailure(f"the model's metadata can't be understood: {error!r}") from error

    def outputs(
        self, uncertainty: bool | Sequence[str], members: Sequence[str] | None
    ) -> tuple[str, ...]:
        """Return the names of the outputs to request.

        Args:
            uncertainty: all scores that the model has, none, or these.
            members: whose own predictions to request; empty for every member's, None for none.

        Raises:
            RequestRejected: if the model does not have them.
        """
        names = [OUTPUT, *self._scores(uncertainty)]
        if members is not None:
            whose = members or self.members
            if not whose:
                raise RequestRejected("the model is not an ensemble: it has no members")
            names += [*(f"{OUTPUT}.{member}" for member in whose), _MASK]
        return tuple(names)

    def _scores(self, uncertainty: bool | Sequence[str]) -> Collection[str]:
        if uncertainty is False:
            return ()
        if uncertainty is not True:
            names = (uncertainty,) if isinstance(uncertainty, str) else tuple(uncertainty)
            unknown = [name for name in names if name not in SCORES]
            if unknown:
                raise RequestRejected(f"uncertainty is one of {SCORES}, not {unknown}")
            return names
        if self.extra_outputs is None:
            return SCORES
        names = tuple(name for name in SCORES if name in self.extra_outputs)
        if not names:
            raise RequestRejected("the model gives no uncertainty: it is not an ensemble")
        return names


def _listed(parameters: Mapping[str, str], name: str, separator: str) -> list[str] | None:
    """A list as one text; gRPC's configuration has no other place for it."""
    if name not in parameters:
        return None
    return parameters[name].split(separator) if parameters[name] else []


def prediction_of(response: InferResponse, info: ModelInfo, timing: Timing) -> Prediction:
    """Return the prediction of a response.

    Raises:
        ServerFailure: if neither the combined output nor the best class is there.
    """
    name = OUTPUT if OUTPUT in response.outputs else CLASS
    if name not in response.outputs:
        raise ServerFailure(f"the server's answer has {list(response.outputs)}, not {OUTPUT!r}")
    prefix = f"{OUTPUT}."
    members = str(response.parameters.get("members", ""))
    return Prediction(
        values=response.outputs[name],
        members=tuple(members.split(",")) if members else (),
        degraded=bool(response.parameters.get("degraded", False)),
        timing=timing,
        uncertainty={name: response.outputs[name] for name in SCORES if name in response.outputs},
        member_values={
            name.removeprefix(prefix): values
            for name, values in response.outputs.items()
            if name.startswith(prefix)
        },
        member_mask=response.outputs.get(_MASK),
        class_names=info.labels,
    )
