"""Predicts what members cost from few measurements and from what their models do for a row.

Pure; used by profiling, planning and studies. `ModelNumbers` of members and some measured profiles
flow in, predicted profiles flow out, with intervals.

The terms of a latency: a call, kernels to launch, arithmetic that threads share, arithmetic that
they do not (Amdahl's law is linear in these two, as in Ernest, Venkataraman et al., NSDI 2016),
bytes that rows and weights move. Arithmetic and traffic are what the roofline (Williams et al.,
2009) bounds; their sum is within a factor of two of their maximum, and the process around the trend
learns the rest. That kinds of devices share what is learned of a member, and members what is
learned of a kind, follows Habitat (Yu et al., ATC 2021) and nn-Meter (Zhang et al., MobiSys 2021),
with a process in place of their trained networks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from allocator.profiles import Profile
from allocator.surrogate.process import Deviations, Estimate, Fitted, Floats, Points, Rates, fit

__all__ = ["COVERAGE", "ModelNumbers", "PredictedCosts", "Surrogate"]

#: How often an interval is to hold what is measured, and the normal quantile that belongs to it.
COVERAGE = 0.9
_QUANTILE = 1.645
#: ... of memory: what does not fit is worse than what is slow.
_MEMORY_QUANTILE = 2.6

#: Where only sizes are known, what a convolutional network does: operations per byte of weights;
#: kernels, as many, but no more; bytes moved, by all and by the largest, per byte of a row.
_FLOPS_PER_BYTE = 20.0
_KERNELS_PER_BYTE, _MOST_KERNELS = 2e-6, 100.0
_MOVED, _PEAK = 100.0, 8.0

# Families of devices: the cores of a CPU, GPUs.
_CPU, _GPU = 0, 1
#: Seconds per call, per kernel, per operation (shared by threads, and not), per byte of a row and
#: of weights: of a core; of an accelerator.
_LATENCY = Rates(
    centre=np.log([
        [1e-5, 2e-6, 1.5e-11, 1e-12, 3e-11, 2e-11],
        [5e-5, 2e-5, 1e-13, 1e-18, 3e-12, 1e-12],
    ]),
    shared=np.array([[0.7, 0.7, 1.0, 1.0, 0.7, 0.7], [0.7, 0.7, 1.0, 0.0, 0.7, 0.7]]),
    own=np.array([[0.3, 0.3, 0.3, 0.3, 0.3, 0.3], [0.7, 0.7, 1.0, 0.0, 0.7, 0.7]]),
)  # fmt: skip
#: Bytes per instance, per byte of the weights, and per byte of a row that the largest kernel moves.
_MEMORY = Rates(
    centre=np.log([[5e5, 2.0, 2.0], [1e8, 1.5, 2.0]]),
    shared=np.array([[1.0, 0.3, 0.5], [1.0, 0.3, 0.7]]),
    own=np.array([[0.2, 0.2, 0.2], [0.5, 0.2, 0.3]]),
)
#: Of a member whose work is known, and of one of which only the weights are.
_MEMBER, _UNKNOWN = 0.2, 1.0


@dataclass(frozen=True, slots=True)
class ModelNumbers:
    """What a member's model does for a row.

    Attributes:
        parameter_bytes: its weights.
        row_bytes: its inputs and outputs.
        flops: its arithmetic; None if only the weights are known.
        moved_bytes: what its kernels read and write beside the weights.
        peak_bytes: ... and the most that one of them does.
        kernels: how many run for a batch.
        factor: by how much a row of the member is more (or less) than one of the model, as with
            test-time augmentation.
    """

    parameter_bytes: float
    row_bytes: float = 0.0
    flops: float | None = None
    moved_bytes: float = 0.0
    peak_bytes: float = 0.0
    kernels: float = 0.0
    factor: float = 1.0

    def complete(self) -> ModelNumbers:
        """Return the numbers with guesses for those that are not known."""
        if self.flops is not None:
            return self
        return replace(
            self,
            flops=self.parameter_bytes * _FLOPS_PER_BYTE,
            moved_bytes=self.row_bytes * _MOVED,
            peak_bytes=self.row_bytes * _PEAK,
            kernels=min(self.parameter_bytes * _KERNELS_PER_BYTE, _MOST_KERNELS),
        )


@dataclass(frozen=True)
class PredictedCosts:
    """A member's profiles on a kind, and how sure it is which batch size is the fastest.

    Attributes:
        profiles: by ascending batch size; what was measured is as measured, others have intervals.
            Their memory is the upper end of its interval, but its median as long as nothing of the
            member was measured: that interval is too wide to place anything by.
        doubt: by batch size, the standard deviation of the rows per second relative to those of
            the fastest size.
    """

    profiles: tuple[Profile, ...]
    doubt: Mapping[int, float]


class Surrogate:
    """Predicts costs, given what was measured.

    Args:
        models: of all members, by name.
        kinds: of all devices.
        measured: of some members on some kinds with some batch sizes.

    Raises:
        KeyError: if something was measured of another member or kind.
    """

    def __init__(
        self,
        models: Mapping[str, ModelNumbers],
        kinds: Iterable[str],
        measured: Iterable[Profile],
    ) -> None:
        self._models = {name: numbers.complete() for name, numbers in models.items()}
        self._members = {name: index for index, name in enumerate(models)}
        self._kinds = {kind: index for index, kind in enumerate(dict.fromkeys(kinds))}
        known = [_MEMBER if one.flops is not None else _UNKNOWN for one in models.values()]
        self._measured = {(one.member, one.device_kind, one.batch): one for one in measured}
        self._known = {member for member, _, _ in self._measured}
        keys = list(self._measured)
        values = self._measured.values()
        self._latency = self._fit(
            keys,
            np.log([one.latency_s for one in values]),
            _LATENCY,
            Deviations(np.array(known), 0.1, 0.15, 0.1, 3.0, 0.02),
            memory=False,
        )
        self._memory = self._fit(
            keys,
            np.log([max(one.memory_bytes, 1) for one in values]),
            _MEMORY,
            Deviations(np.array(known), 0.05, 0.06, 0.03, 4.0, 0.02),
            memory=True,
        )

    def predict(self, member: str, kind: str, batches: Sequence[int]) -> PredictedCosts:
        """Return what a member is expected to cost on a kind, by ascending batch size."""
        sizes = sorted(batches)
        keys = [(member, kind, size) for size in sizes]
        latency = self._latency.predict(self._points(keys, memory=False))
        memory = self._memory.predict(self._points(keys, memory=True))
        seconds, room = _intervals(latency, _QUANTILE), _intervals(memory, _MEMORY_QUANTILE)
        profiles = [
            self._measured.get(key)
            or Profile(
                *key,
                latency_s=float(middle_s),
                memory_bytes=int(most if member in self._known else middle),
                interval_s=(float(low_s), float(high_s)),
                interval_bytes=(int(least), int(most)),
            )
            for key, (low_s, middle_s, high_s), (least, middle, most) in zip(
                keys, seconds, room, strict=True
            )
        ]
        fastest = max(range(len(sizes)), key=lambda index: profiles[index].rows_per_s)
        return PredictedCosts(
            tuple(profiles),
            {size: _difference(latency.covariance, i, fastest) for i, size in enumerate(sizes)},
        )

    def _fit(self, keys: Sequence[tuple[str, str, int]], logs: Floats, rates: Rates,
             deviations: Deviations, *, memory: bool) -> Fitted:  # fmt: skip
        points = self._points(keys, memory=memory)
        return fit(points, logs, rates, deviations, kinds=len(self._kinds))

    def _points(self, keys: Sequence[tuple[str, str, int]], *, memory: bool) -> Points:
        terms = [
            _memory_terms(self._models[member], batch)
            if memory
            else _latency_terms(self._models[member], kind, batch)
            for member, kind, batch in keys
        ]
        rates = _MEMORY if memory else _LATENCY
        return Points(
            np.array([self._members[member] for member, _, _ in keys], np.int64),
            np.array([self._kinds[kind] for _, kind, _ in keys], np.int64),
            np.array([_family(kind) for _, kind, _ in keys], np.int64),
            np.log2([float(batch) for _, _, batch in keys]),
            np.array(terms, np.float64).reshape(len(keys), rates.centre.shape[1]),
        )


def _intervals(estimate: Estimate, quantile: float) -> Floats:
    """The lower end, the median and the upper end of each point, [n, 3]."""
    widths = quantile * np.sqrt(np.maximum(np.diag(estimate.covariance), 0.0))
    ends = estimate.mean[:, np.newaxis] + np.multiply.outer(widths, [-1.0, 0.0, 1.0])
    return np.asarray(np.exp(ends), np.float64)


def _difference(covariance: Floats, i: int, j: int) -> float:
    return math.sqrt(max(covariance[i, i] + covariance[j, j] - 2 * covariance[i, j], 0.0))


def _family(kind: str) -> int:
    return _CPU if kind.lower().startswith("cpu") else _GPU


def _threads(kind: str) -> int:
    """How many cores a kind of CPU device works with."""
    found = re.fullmatch(r"cpu-(\d+)", kind)
    return int(found[1]) if found else 1


def _latency_terms(model: ModelNumbers, kind: str, batch: int) -> tuple[float, ...]:
    assert model.flops is not None
    rows = batch * model.factor
    serial = rows * model.flops if _family(kind) == _CPU else 0.0
    return (
        1.0,
        model.kernels,
        rows * model.flops / _threads(kind),
        serial,
        rows * model.moved_bytes,
        model.parameter_bytes,
    )


def _memory_terms(model: ModelNumbers, batch: int) -> tuple[float, ...]:
    return 1.0, model.parameter_bytes, batch * model.factor * model.peak_bytes
