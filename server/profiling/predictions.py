"""Predicts what has not been measured: of members, kinds of devices and batch sizes.

Runs in the process that profiles; pure. Targets and their records flow in, profiles with intervals
flow out: all that a target may still be measured at, by `allocator.surrogate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from allocator.profiles import Profile
from allocator.surrogate.surrogate import ModelNumbers, PredictedCosts, Surrogate
from server.profiling.targets import ProfileRecord, ProfileTarget, TargetKey

__all__ = ["predict_costs"]


def predict_costs(
    targets: Sequence[ProfileTarget], records: Mapping[TargetKey, ProfileRecord]
) -> dict[TargetKey, PredictedCosts]:
    """Return what members with open batch sizes cost, by the measurements of all.

    Of members with variable dimensions, batches of rows of the largest size are meant.
    """
    real = [target for target in targets if not target.is_fake]
    open_batches = {
        one.key: records[one.key].open_batches(one.batches) for one in real if one.batches
    }
    if not any(open_batches.values()):
        return {}
    surrogate = Surrogate(
        {target.key[0]: _numbers(target) for target in real},
        [target.key[1] for target in real],
        _measured(real, records),
    )
    return {
        key: surrogate.predict(*key, [*batches, *(one.batch for one in records[key].measured)])
        for key, batches in open_batches.items()
        if batches
    }


def _measured(
    targets: Sequence[ProfileTarget], records: Mapping[TargetKey, ProfileRecord]
) -> Iterator[Profile]:
    for target in targets:
        for one in records[target.key].measured:
            yield Profile(*target.key, one.batch, one.latency_s, one.memory_bytes)


def _numbers(target: ProfileTarget) -> ModelNumbers:
    signature = target.member.signature
    row_bytes = sum(tensor.row_bytes for tensor in (*signature.inputs, *signature.outputs))
    known = {} if signature.work is None else msgspec.structs.asdict(signature.work)
    return ModelNumbers(
        signature.parameter_bytes, row_bytes, factor=float(target.model_rows), **known
    )
