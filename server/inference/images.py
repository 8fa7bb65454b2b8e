"""The images of a request, decoded and prepared in threads, within bounds of memory and turns.

Runs in the front-end; its threads do the work. Encoded images (or pixels) flow in, an array per
preparation flows out.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from server.engine.memory_budget import MemoryBudget
from server.errors import InvalidRequest, RequestTooLarge
from server.inference.preprocess import ImageError, prepare_all
from workers.runtime.spec import Preparation

__all__ = ["Encoded", "prepare_images"]

_CHANNELS = 3
#: Images of one request that are with the threads: in so many places, one at a time in each; or
#: more, where there are so many that they must be tiny.
_LANES = 4
_FEW, _MOST_AT_ONCE = 64, 16

Encoded = bytes | memoryview | npt.NDArray[np.uint8]


async def prepare_images(
    images: Sequence[Encoded],
    preparations: Sequence[Preparation],
    threads: Executor,
    max_pixels: int,
    room: MemoryBudget,
) -> list[npt.NDArray[np.uint8]]:
    """Prepare images.

    Args:
        images: encoded, or pixels uint8 [height, width, 3].
        preparations: what to make of each.
        threads: where they are decoded.
        max_pixels: the most pixels that an image may have.
        room: what the arrays take of it they give back when they are freed.

    Returns:
        Per preparation uint8 [n, size, size, 3].

    Raises:
        InvalidRequest: naming the first image that can't be used.
        RequestTooLarge: if the arrays would take more than all of `room`.
        QueueFull: if they would take more than is left.
    """
    sizes = [preparation.size for preparation in preparations]
    nbytes = len(images) * sum(size * size * _CHANNELS for size in sizes)
    if nbytes > room.limit_bytes:
        raise RequestTooLarge(
            f"{len(images)} images take {nbytes} bytes when they are decoded for the models, "
            f"the limit is {room.limit_bytes}"
        )
    room.check(nbytes)
    arrays = [np.empty((len(images), size, size, _CHANNELS), np.uint8) for size in sizes]
    room.take(nbytes)  # not before they are there: who else would give it back
    for array in arrays:
        loop = asyncio.get_running_loop()
        weakref.finalize(array, _give_back, loop, room, array.nbytes).atexit = False
    await _Preparation(images, preparations, arrays, max_pixels).run(threads)
    return arrays


def _give_back(loop: asyncio.AbstractEventLoop, room: MemoryBudget, nbytes: int) -> None:
    """Give back what an array took that is no more; a thread may have been the last to hold it."""
    with suppress(RuntimeError):  # the loop is closed, and nobody counts any more
        loop.call_soon_threadsafe(room.give, nbytes)


class _Preparation:
    """The images of one request on their way into its arrays.

    However many there are, only a few are with the threads at a time: so the images of others get
    their turn, and nothing more is done for a request that is refused for one of its first.
    """

    def __init__(
        self,
        images: Sequence[Encoded],
        preparations: Sequence[Preparation],
        arrays: Sequence[npt.NDArray[np.uint8]],
        max_pixels: int,
    ) -> None:
        self._images = images
        self._preparations = preparations
        self._arrays = arrays
        self._max_pixels = max_pixels
        self._at_once = min(_MOST_AT_ONCE, 1 + len(images) // _FEW)
        self._next = 0
        self._refused: tuple[int, ImageError] | None = None

    async def run(self, threads: Executor) -> None:
        """Fill the arrays.

        Raises:
            InvalidRequest: naming the first image that can't be used.
        """
        lanes = min(_LANES, -(-len(self._images) // self._at_once))
        await asyncio.gather(*(self._lane(threads) for _ in range(lanes)))
        if self._refused is not None:
            row, refusal = self._refused
            raise InvalidRequest(f"image {row}: {refusal}")

    async def _lane(self, threads: Executor) -> None:
        loop = asyncio.get_running_loop()
        while self._refused is None and self._next < len(self._images):
            start, self._next = self._next, self._next + self._at_once
            found = await loop.run_in_executor(threads, self._prepare, start)
            if found is not None and (self._refused is None or found[0] < self._refused[0]):
                self._refused = found

    def _prepare(self, start: int) -> tuple[int, ImageError] | None:
        """Prepare some, in a thread; the row that can't be, and why."""
        for row in range(start, min(start + self._at_once, len(self._images))):
            try:
                made = prepare_all(self._images[row], self._preparations, self._max_pixels)
            except ImageError as refusal:
                return row, refusal.with_traceback(None)
            for array, pixels in zip(self._arrays, made, strict=True):
                array[row] = pixels
        return None
