"""What members cost that nobody measured: fakes tell it, others are estimated.

Runs in the process that profiles; pure. Pairs, and what is known of others, flow in; profiles
flow out.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from allocator.profiles import Profile
from server.profiling.known import Known
from server.profiling.pairs import Pair
from workers.runtime.spec import DeviceSpec

__all__ = ["estimate", "fake_profiles"]

#: A fake member sleeps; around that its worker does what it does for every job.
_FAKE_OVERHEAD_S = 20e-6
_FAKE_BYTES = 1 << 20

# Weights are held as read and as laid out for the device; activations are a multiple of inputs
# and outputs.
_WEIGHTS_FACTOR = 2
_ACTIVATIONS_FACTOR = 16
_OVERHEAD_S = 100e-6
#: Seconds per row and byte of weights where nothing was measured: as EfficientNets on one core.
_CPU_ROW_S = 1e-9
_CUDA_ROW_S = 2e-11
#: On a CPU, only small networks run faster the bigger the batch.
_SMALL_BYTES = 1 << 20
_LARGE_BATCH = 32
_CPU_BATCH = 4


def fake_profiles(pair: Pair) -> list[Profile]:
    """Return the profiles of a fake member, which its options tell.

    Args:
        pair: a fake member on a kind of device.
    """
    options = pair.member.source.fake
    assert options is not None
    latency_s = options.sleep_ms / 1000 + _FAKE_OVERHEAD_S
    return [Profile(*pair.key, batch, latency_s, _FAKE_BYTES) for batch in pair.batches]


def estimate(
    pair: Pair, pairs: Sequence[Pair], known: Mapping[tuple[str, str], Known]
) -> list[Profile]:
    """Estimate a member's profiles from the size of its file, inputs and output.

    Args:
        pair: the member on a kind of device.
        pairs: all, which tell how fast the kind is.
        known: what was measured of them, by their keys.
    """
    signature = pair.member.signature
    row_s = signature.parameter_bytes * _row_s_per_byte(pair.devices[0], pairs, known)
    row_bytes = sum(tensor.row_bytes for tensor in (*signature.inputs, signature.output))
    small = signature.parameter_bytes < _SMALL_BYTES or pair.devices[0].is_cuda
    most = _LARGE_BATCH if small else _CPU_BATCH
    return [
        Profile(
            *pair.key,
            batch,
            latency_s=_OVERHEAD_S + batch * row_s,
            memory_bytes=signature.parameter_bytes * _WEIGHTS_FACTOR
            + batch * row_bytes * _ACTIVATIONS_FACTOR,
        )
        for batch in [one for one in pair.batches if one <= most] or pair.batches[:1]
    ]


def _row_s_per_byte(
    device: DeviceSpec, pairs: Sequence[Pair], known: Mapping[tuple[str, str], Known]
) -> float:
    """Seconds per row and byte of weights, as the members that were measured on this kind take."""
    seen = [
        min(one.latency_s / one.batch for one in known[pair.key].measured)
        / max(pair.member.signature.parameter_bytes, 1)
        for pair in pairs
        if pair.devices[0].kind == device.kind and known[pair.key].measured
    ]
    if seen:
        return statistics.median(seen)
    return _CUDA_ROW_S if device.is_cuda else _CPU_ROW_S
