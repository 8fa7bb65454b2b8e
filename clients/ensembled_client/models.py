"""Models as a client knows them, and predictions made of decoded responses. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ensembled_client.errors import RequestRejected, ServerFailure
from ensembled_client.requests import CLASS, OUTPUT
from ensembled_client.wire import CLASS_SCORES, SCORES, InferResponse

__all__ = ["ModelInfo", "ModelState", "Prediction", "Timing", "prediction_of"]

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
    """A model, by its metadata and configuration."""

    metadata: Mapping[str, Any]
    max_request_bytes: int | None = None  # None: the server does not say
    members: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    extra_outputs: tuple[str, ...] | None = None  # on request; None: not said
    further_outputs: tuple[str, ...] = ()  # regular ones beside the main one

    @classmethod
    def of(cls, metadata: Mapping[str, Any], config: Mapping[str, Any]) -> ModelInfo:
        """Parse the two documents; the configuration of another kind of server may be empty.

        Raises ServerFailure if they can't be understood.
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
                # Of another kind of server, nothing is known about its outputs' order.
                further_outputs=()
                if extra is None
                else tuple(one["name"] for one in metadata.get("outputs", ())[1:]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ServerFailure(f"the model's metadata can't be understood: {error!r}") from error

    def outputs(
        self, uncertainty: bool | Sequence[str], members: Sequence[str] | None
    ) -> tuple[str, ...]:
        """Return the names of the outputs to request; empty `members` are all, None are none.

        Raises RequestRejected if the model does not have them.
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
            return CLASS_SCORES
        names = tuple(name for name in SCORES if name in self.extra_outputs)
        if not names:
            raise RequestRejected(
                "the model gives no uncertainty: it is not an ensemble, or its rule has none"
            )
        return names


def _listed(parameters: Mapping[str, str], name: str, separator: str) -> list[str] | None:
    """A list as one text; gRPC's configuration has no other place for it."""
    if name not in parameters:
        return None
    return parameters[name].split(separator) if parameters[name] else []


@dataclass(frozen=True)
class Timing:
    """Where the time of a prediction went, in seconds, as the client sees it.

    ``float(timing)`` is `total_s`.

    Attributes:
        total_s: from the call to the prediction, all of it.
        encode_s: of it, to make tensors from what the caller gave (reading files, converting).
        exchange_s: of it, from the first byte sent to the last answer decoded, with the pauses
            between tries, if there were any.
        pieces: how many requests the rows were split into.
        tries: how many requests were sent, more than `pieces` if some were tried again.
    """

    total_s: float
    encode_s: float = 0.0
    exchange_s: float = 0.0
    pieces: int = 1
    tries: int = 1

    def __float__(self) -> float:
        """Return `total_s`."""
        return self.total_s


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The combined answer of an ensemble. NumPy's functions take it as its `values`.

    Attributes:
        values: [n, *outputs], a row per row of the input.
        members: the members that contributed to all rows, in the ensemble's order.
        degraded: whether the answer rests on fewer members than were asked for.
        timing: where the time went.
        uncertainty: if asked for, scores by their name, each [n], float32. "entropy" (nats, of the
            mean of the members' probabilities: all doubt), "expected_entropy" (the mean of the
            members' own: doubt in the data), "mutual_information" (the difference: what the
            members disagree about), "variance", "vote_share" (the share of the members that name
            the most voted class), "disagreement" (the share of pairs of members that name
            different ones). An ensemble of values, not classes, has "variance" only; one of
            distributions (rule `mixture`) has "aleatoric" (the mean of the members' variances),
            "epistemic" (the variance of their means) and their sum, "variance", each of the shape
            of `values`.
        member_values: if asked for, each member's own prediction by its name, like `values`;
            NaN in rows to which it did not contribute.
        member_mask: if asked for, bool [n, members]: who contributed to which row. Its columns
            are the members of the ensemble in its order, the keys of `member_values`.
        outputs: all outputs of the answer by their name, with those that were asked for by name.
            Without such, a model's further outputs are all there; `values` are its main one.
        generation: the number of the deployment that has answered; 0 if the server does not say.
        variants: of members that run at lower precision, by member, as which of their variants
            on which kind of device; empty if none does.
        class_names: the model's labels, one per class; empty if it has none.
    """

    values: npt.NDArray[Any]
    members: tuple[str, ...]
    degraded: bool
    timing: Timing
    uncertainty: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    member_values: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    member_mask: npt.NDArray[np.bool_] | None = None
    class_names: tuple[str, ...] = ()
    outputs: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    generation: int = 0
    variants: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @cached_property
    def labels(self) -> tuple[str, ...] | None:
        """The label of each row's best class; None if the model has no labels."""
        if self.values.ndim != 2 or len(self.class_names) != self.values.shape[1]:
            return None
        return tuple(self.class_names[index] for index in self.values.argmax(axis=1))

    def top(self, k: int = 5) -> list[list[tuple[str, float]]]:
        """Return the best classes of each row.

        Args:
            k: how many at most, 1 or more.

        Returns:
            For each row (label, value), best first; the class's index where it has no label.

        Raises:
            ValueError: if the values are not [n, classes], or `k` is below 1.
        """
        if self.values.ndim != 2:
            raise ValueError(f"values of shape {list(self.values.shape)} are not of classes")
        if k < 1:
            raise ValueError(f"k is 1 or more, not {k}")
        names: Any = self.class_names
        if len(names) != self.values.shape[1]:
            names = [str(index) for index in range(self.values.shape[1])]
        best = np.argsort(-self.values.astype(np.float64), axis=1, kind="stable")[:, :k]
        return [
            [(names[index], float(row[index])) for index in order]
            for row, order in zip(self.values, best, strict=True)
        ]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.values)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """Return the values, for NumPy's functions."""
        return np.array(self.values, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        """Say what it is, without its numbers."""
        parts = [f"values={list(self.values.shape)}", f"members={','.join(self.members)}"]
        parts += ["degraded"] * self.degraded
        parts += [f"uncertainty={','.join(self.uncertainty)}"] * bool(self.uncertainty)
        return f"Prediction({', '.join(parts)}, {self.timing.total_s * 1e3:.1f} ms)"


def prediction_of(response: InferResponse, info: ModelInfo, timing: Timing) -> Prediction:
    """Make a prediction; ServerFailure if there is neither combined output nor best class."""
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
        outputs=response.outputs,
        class_names=info.labels,
        generation=int(response.parameters.get("generation", 0)),
        variants=_variants(response.parameters.get("variants", "")),
    )


def _variants(text: Any) -> Mapping[str, Mapping[str, str]]:
    """The parameter `variants` of an answer, JSON; ServerFailure if it is something else."""
    try:
        found = json.loads(text) if text else {}
        return {member: dict(variants) for member, variants in found.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise ServerFailure(f"the server's answer has variants {text!r}: {error}") from error
