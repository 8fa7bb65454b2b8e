"""What the placement study asks: ensembles, GPUs, memory; and the placements that one tries first.

Pure, used by the study's one process; names and numbers flow in, problems and cells flow out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from allocator.problem import Cells, Device, NoPlaceError, Problem
from allocator.profiles import Profiles
from allocator.search.greedy import worst_fit
from benchmarks.study.roofline import estimate, gpus

__all__ = [
    "ENSEMBLES",
    "GPU_COUNTS",
    "MEMORIES",
    "Case",
    "Naive",
    "mixed_case",
    "naive_placements",
    "one_case",
    "sweep_case",
    "twelve_case",
]

_TWELVE = (
    "resnet152", "densenet201", "xception", "vgg16",
    "efficientnet_b4", "vit_b16", "inception_v3", "resnet101",
    "densenet169", "swin_s", "convnext_s", "regnety_8gf",
)  # fmt: skip

#: Ensembles by size; each is the beginning of the next, so that what a member adds can be seen.
ENSEMBLES = {size: _TWELVE[:size] for size in (1, 4, 8, 12)}
GPU_COUNTS = tuple(range(1, 17))
#: Bytes for instances on each of the four GPUs of the twelve networks; None is all there is.
MEMORIES = (None, 8 << 30, 4 << 30, 3 << 30, 2 << 30, 1792 << 20)
_NAIVE_BATCHES = (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Case:
    """A question.

    Attributes:
        name: unique, for files.
        title: for people.
        problem: members, devices and estimated profiles.
    """

    name: str
    title: str
    problem: Problem


@dataclass(frozen=True)
class Naive:
    """A placement that needs no search.

    Attributes:
        rule: how members are placed.
        batch: of every instance.
        cells: the placement; None where it does not fit.
    """

    rule: str
    batch: int
    cells: Cells | None


def _case(name: str, title: str, size: int, devices: list[Device], kinds: tuple[str, ...]) -> Case:
    profiles = estimate(ENSEMBLES[size], kinds)
    return Case(name, title, Problem(ENSEMBLES[size], tuple(devices), profiles))


def sweep_case(size: int, count: int) -> Case:
    """An ensemble on some V100."""
    title = f"{_networks(size)} on {count} V100"
    return _case(f"sweep-{size}-on-{count}", title, size, gpus("v100", count), ("v100",))


def one_case(count: int = 16) -> Case:
    """The paper's one extreme: a single network on many GPUs."""
    return replace(sweep_case(1, count), name=f"one-on-{count}")


def twelve_case(memory: int | None = None) -> Case:
    """The paper's other extreme: twelve heavy networks on four GPUs.

    Args:
        memory: bytes for instances on each GPU; by default all there is.
    """
    devices = gpus("v100", 4, memory=memory)
    budget = f"{devices[0].memory_bytes / (1 << 30):.3g} GiB"
    label = "all" if memory is None else f"{memory >> 20}mib"
    title = f"12 networks on 4 V100 with {budget} each"
    return _case(f"twelve-on-four-{label}", title, 12, devices, ("v100",))


def mixed_case() -> Case:
    """GPUs of different speeds and sizes: eight networks on two A100 and two T4."""
    devices = [*gpus("a100", 2), *gpus("t4", 2, first=2)]
    title = "8 networks on 2 A100 and 2 T4"
    return _case("mixed", title, 8, devices, ("a100", "t4"))


def _networks(size: int) -> str:
    return "1 network" if size == 1 else f"{size} networks"


def naive_placements(problem: Problem) -> Iterator[Naive]:
    """Yield the placements that come to mind first: one batch size for all, here or everywhere."""
    for batch in _NAIVE_BATCHES:
        fixed = _only(problem, batch)
        try:
            cells: Cells | None = worst_fit(fixed)
        except NoPlaceError:
            cells = None
        yield Naive("each network once, by worst-fit", batch, cells)
    for batch in _NAIVE_BATCHES:
        yield Naive("every network on every GPU", batch, _everywhere(problem, batch))


def _only(problem: Problem, batch: int) -> Problem:
    """The same problem with a single batch size."""
    kept = Profiles(one for one in problem.profiles if one.batch == batch)
    return replace(problem, profiles=kept)


def _everywhere(problem: Problem, batch: int) -> Cells | None:
    cells = np.full_like(problem.empty(), batch)
    fits = bool((problem.used_bytes(cells) <= problem.capacity_bytes).all())
    return cells if fits else None
