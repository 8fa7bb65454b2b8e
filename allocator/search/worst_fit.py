"""Worst-fit decreasing: the first allocation, with one instance of each member.

The algorithm is that of Pochelu, Petiton and Conche (IEEE Big Data 2021, arXiv 2208.14049).
Pure, used in the process that plans an allocation; a problem flows in, cells flow out.
"""

from __future__ import annotations

from allocator.problem import Cells, Problem
from allocator.profiles import Profile

__all__ = ["worst_fit"]


def worst_fit(problem: Problem) -> Cells:
    """Place each member once, the biggest first, on the device with the most memory left.

    Every instance has its smallest batch size. The CPU takes part only for members that no GPU
    has room for. Equals keep the given order.

    Raises:
        NoPlaceError: if a member fits nowhere; a placement may exist all the same.
    """
    devices = range(len(problem.devices))
    cells = problem.empty()
    left = problem.capacity_bytes.copy()

    def smallest(device: int, member: int) -> Profile | None:
        options = problem.options(device, member)
        return options[0] if options else None

    def size(member: int) -> int | None:
        sizes = [one.memory_bytes for d in devices if (one := smallest(d, member))]
        return max(sizes, default=None)

    for member in range(len(problem.members)):
        if size(member) is None:  # it fits no device even alone: nobody else is to blame
            raise problem.refuse(member, problem.left_bytes(cells))
    for member in sorted(range(len(problem.members)), key=lambda m: -(size(m) or 0)):
        roomy = [
            (problem.devices[d].is_cuda, left[problem.room_of[d]], -d, one)
            for d in devices
            if (one := smallest(d, member)) and one.memory_bytes <= left[problem.room_of[d]]
        ]
        if not roomy:
            raise problem.refuse(member, problem.left_bytes(cells))
        _, _, negative, profile = max(roomy, key=lambda option: option[:3])
        cells[-negative, member] = profile.batch
        left[problem.room_of[-negative]] -= profile.memory_bytes
    return cells
