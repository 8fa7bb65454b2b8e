"""Whether the brackets of a JSON array are those of a regular one, without looking at its values.

Runs in the front-end; pure. What is left of a regular array without its values repeats itself:
``[[,],[,],[,]]`` is three rows of two. So its sizes can be read off the first element of each
level, and the rest compared with that, at the speed of a memory comparison.
"""

from __future__ import annotations

from server.inference.time_slicer import Steps

__all__ = ["is_regular"]

_STEP_BYTES = 1 << 20
_MAX_DEPTH = 32


def is_regular(nesting: bytes, elements: int) -> Steps[bool]:
    """Say whether brackets and commas are those of a regular array; a generator with short steps.

    Args:
        nesting: the array's text but for everything that is neither bracket nor comma.
        elements: how many values it has. (An array without values is none that we look at.)
    """
    depth = next((i for i in range(_MAX_DEPTH + 1) if nesting[i : i + 1] != b"["), 0)
    if depth == 0 or not nesting.endswith(b"]" * depth):
        return False
    product, unit_length = 1, 0  # of a value
    for level in range(1, depth + 1):
        start = depth - level
        stop = yield from _find(nesting, b"]" * level)
        length = stop + level - start
        # "[" unit "," unit ... "]", where the unit of the innermost level is nothing.
        count, odd = divmod(length - 1, unit_length + 1)
        if stop < 0 or odd:
            return False
        if not (yield from _repeats(nesting, start + 1, unit_length, count)):
            return False
        product *= count
        unit_length = length
    return unit_length == len(nesting) and product == elements


def _find(nesting: bytes, brackets: bytes) -> Steps[int]:
    """`bytes.find` in short steps."""
    for start in range(0, len(nesting), _STEP_BYTES):
        found = nesting.find(brackets, start, start + _STEP_BYTES + len(brackets))
        if found >= 0:
            return found
        yield
    return -1


def _repeats(nesting: bytes, start: int, unit_length: int, count: int) -> Steps[bool]:
    """Whether `count` units follow each other from `start`, with commas between them."""
    stride = unit_length + 1
    at_once = max(1, _STEP_BYTES // stride)
    expected = (nesting[start : start + unit_length] + b",") * min(count, at_once)
    for first in range(0, count, at_once):
        many = min(at_once, count - first)
        begin, end = start + first * stride, start + (first + many) * stride
        last = first + many == count
        if nesting[begin : end - last] != expected[: many * stride - last]:
            return False
        yield
    return True
