"""What a client remembers of a model, and what it makes of it. Pure.

In: the documents of metadata and configuration. Out: which outputs to ask for, predictions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ensembled_client.errors import RequestRejected, ServerFailure
from ensembled_client.exchange import CLASS, OUTPUT
from ensembled_client.prediction import Prediction, Timing
from ensembled_client.wire import InferResponse

__all__ = ["SCORES", "ModelInfo", "ModelState", "prediction_of"]

#: What an ensemble of classes can say about how sure it is.
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
    """A line of the server's index of models.

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
    """A model as its metadata and configuration tell it.

    Attributes:
        metadata: name, inputs, outputs.
        max_request_bytes: the server's limit of a request, None if it does not say.
        members: of an ensemble.
        labels: of classes.
        extra_outputs: what can be asked for beside `output`; None if the server does not say.
    """

    metadata: Mapping[str, Any]
    max_request_bytes: int | None = None
    members: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    extra_outputs: tuple[str, ...] | None = None

    @classmethod
    def of(cls, metadata: Mapping[str, Any], config: Mapping[str, Any]) -> ModelInfo:
        """Read the two documents; a configuration of another kind of server may be empty.

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
        """Return the names of the outputs to ask for.

        Args:
            uncertainty: all scores that there are, none, or these.
            members: whose own predictions are wanted; empty for every member's, None for none.

        Raises:
            RequestRejected: if the model has no such thing.
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
    """A list that came as one text; gRPC's configuration has no other place for it."""
    if name not in parameters:
        return None
    return parameters[name].split(separator) if parameters[name] else []


def prediction_of(answer: InferResponse, info: ModelInfo, timing: Timing) -> Prediction:
    """Return what an answer means.

    Raises:
        ServerFailure: if neither the combined output nor the best class is there.
    """
    name = OUTPUT if OUTPUT in answer.outputs else CLASS
    if name not in answer.outputs:
        raise ServerFailure(f"the server's answer has {list(answer.outputs)}, not {OUTPUT!r}")
    prefix = f"{OUTPUT}."
    members = str(answer.parameters.get("members", ""))
    return Prediction(
        values=answer.outputs[name],
        members=tuple(members.split(",")) if members else (),
        degraded=bool(answer.parameters.get("degraded", False)),
        timing=timing,
        uncertainty={name: answer.outputs[name] for name in SCORES if name in answer.outputs},
        member_values={
            name.removeprefix(prefix): values
            for name, values in answer.outputs.items()
            if name.startswith(prefix)
        },
        member_mask=answer.outputs.get(_MASK),
        class_names=info.labels,
    )
