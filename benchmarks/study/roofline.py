"""Estimates what a network costs on an accelerator, from published figures alone.

Pure, used by the placement study; networks and accelerators flow in, profiles flow out. Nothing
here is measured. `docs/placement-study.md` tells the formula and how far off it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from allocator.problem import Device
from allocator.profiles import Profile, Profiles
from benchmarks.study.networks import ACCELERATORS, NETWORKS, REFERENCE, Accelerator, Network

__all__ = [
    "BATCH_SIZES",
    "efficiency",
    "estimate",
    "gpus",
    "latency_s",
    "memory_bytes",
    "reference_ratio",
    "write_profiles",
]

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)

#: Seconds to launch the kernels of one layer: its product, normalisation and activation.
LAUNCH_S = 20e-6
#: A layer whose arithmetic would take so long at the peak reaches half of the best efficiency.
RAMP_S = 20e-6
#: The share of the peak that big layers reach.
BEST_EFFICIENCY = 0.65
#: How often an element is read or written between two layers: by the product, the
#: normalisation, the activation, additions and excitations, none of them fused.
PASSES = 14
#: Weights are kept as they are and, in part, in the layout that the kernels want.
WEIGHT_COPIES = 1.5
#: The share of all activations of a row that are alive at once, in an arena that keeps its peak.
LIVE_SHARE = 0.5
#: What the convolutions' scratch space and the session take, whatever the network.
WORKSPACE_BYTES = 256 << 20
#: What the context of a process takes on each GPU.
CONTEXT_BYTES = 512 << 20


def efficiency(network: Network, on: Accelerator, batch: int) -> float:
    """The share of the peak that the network's arithmetic reaches: the more work, the more."""
    ideal_s = 2 * network.macs * batch / network.layers / on.flops
    return BEST_EFFICIENCY * ideal_s / (ideal_s + RAMP_S)


def latency_s(network: Network, on: Accelerator, batch: int) -> float:
    """Estimate the seconds of a batch: launches, and the slower of arithmetic and memory."""
    arithmetic_s = 2 * network.macs * batch / (on.flops * efficiency(network, on, batch))
    elements = network.parameters + PASSES * network.written * batch
    return LAUNCH_S * network.layers + max(
        arithmetic_s, elements * on.element_bytes / on.bytes_per_s
    )


def memory_bytes(network: Network, on: Accelerator, batch: int) -> int:
    """Estimate the bytes of an instance."""
    elements = WEIGHT_COPIES * network.parameters + LIVE_SHARE * network.written * batch
    return WORKSPACE_BYTES + int(elements * on.element_bytes)


def estimate(
    networks: Iterable[str],
    accelerators: Iterable[str],
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> Profiles:
    """Return the estimated profiles of some networks on some accelerators, by their names.

    Raises:
        KeyError: if there is no such network or accelerator.
    """
    kinds = [ACCELERATORS[name] for name in accelerators]
    return Profiles(
        Profile(
            member=name,
            device_kind=on.kind,
            batch=batch,
            # A nanosecond is finer than any estimate; rounding keeps the file readable.
            latency_s=round(latency_s(NETWORKS[name], on, batch), 9),
            memory_bytes=memory_bytes(NETWORKS[name], on, batch),
        )
        for name in networks
        for on in kinds
        for batch in batch_sizes
    )


def gpus(name: str, count: int, *, memory: int | None = None, first: int = 0) -> list[Device]:
    """Return some GPUs of one kind.

    Args:
        name: of the accelerator.
        count: how many.
        memory: bytes for instances on each; by default what it has, less the context.
        first: number of the first.
    """
    on = ACCELERATORS[name]
    budget = on.memory_bytes - CONTEXT_BYTES if memory is None else memory
    return [Device(f"cuda:{first + i}", on.kind, budget) for i in range(count)]


def reference_ratio(network: Network, batch: int = 256) -> float | None:
    """Estimated by published rows/s on the reference accelerator; None if nothing is published."""
    if network.published_rows_per_s is None:
        return None
    return batch / latency_s(network, REFERENCE, batch) / network.published_rows_per_s


def write_profiles() -> str:
    """Return the text of the profiles file of all networks on all accelerators."""
    profiles = estimate(NETWORKS, ACCELERATORS)
    return profiles.to_json(
        estimated=True,
        note="Estimated by benchmarks/study/roofline.py from published figures; not measured.",
    )
