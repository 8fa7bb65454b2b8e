"""Images: decoded, resized and cropped to `uint8` arrays, in threads and within a memory budget.

Runs in the front-end; its threads do the work. Encoded images (or pixels) flow in, one array per
preparation flows out; scaling to float is the worker's. Pillow releases the GIL while it decodes
and resizes, but for some tens of milliseconds with large images of some formats.
"""

from __future__ import annotations

import asyncio
import io
import weakref
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from server.engine.memory_budget import MemoryBudget
from server.errors import InvalidRequest, RequestTooLarge
from workers.runtime.spec import Preparation

__all__ = [
    "EncodedImage",
    "ImageError",
    "Pixels",
    "crop_and_resize",
    "decode_image",
    "preprocess_image",
    "preprocess_images",
]

EncodedImage = bytes | memoryview
Pixels = npt.NDArray[np.uint8]

_CHANNELS = 3
#: Of one request, so many images are with the threads at once: one per lane, or more where there
#: are so many that they must be tiny.
_LANES = 4
_FEW, _MOST_AT_ONCE = 64, 16
#: Some milliseconds of work.
_TILE_PIXELS = 1 << 18

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

# Pillow only warns about big images, for the whole process; `decode_image` refuses them itself.
Image.MAX_IMAGE_PIXELS = None


class ImageError(ValueError):
    """The client's image can't be used; the text is one line that says why."""


async def preprocess_images(
    images: Sequence[EncodedImage | Pixels],
    preparations: Sequence[Preparation],
    threads: Executor,
    max_pixels: int,
    budget: MemoryBudget,
) -> list[Pixels]:
    """Preprocess a request's images (encoded, or pixels uint8 [height, width, 3], RGB).

    Returns uint8 [n, side, side, 3] per preparation, charged to the budget until freed. Raises
    `InvalidRequest` naming the first image that can't be used, `RequestTooLarge` if the arrays
    would exceed the whole budget, `QueueFull` if they would exceed what is left of it.
    """
    sizes = [preparation.side for preparation in preparations]
    nbytes = len(images) * sum(size * size * _CHANNELS for size in sizes)
    if nbytes > budget.limit_bytes:
        raise RequestTooLarge(
            f"{len(images)} images take {nbytes} bytes when they are decoded for the models, "
            f"the limit is {budget.limit_bytes}"
        )
    budget.check(nbytes)
    arrays = [np.empty((len(images), size, size, _CHANNELS), np.uint8) for size in sizes]
    budget.reserve(nbytes)  # only now: had an allocation failed, nobody would give it back
    loop = asyncio.get_running_loop()
    for array in arrays:
        weakref.finalize(array, _give_back, loop, budget, array.nbytes).atexit = False
    await _ImageBatch(images, preparations, arrays, max_pixels).run(threads)
    return arrays


def _give_back(loop: asyncio.AbstractEventLoop, budget: MemoryBudget, nbytes: int) -> None:
    """Release the budget of a freed array; a thread may have held its last reference."""
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(budget.release, nbytes)


class _ImageBatch:
    """The images of one request on their way into its arrays.

    However many there are, only a few are with the threads at a time: so other requests' images
    get through, and work stops soon after the first bad image.
    """

    def __init__(
        self,
        images: Sequence[EncodedImage | Pixels],
        preparations: Sequence[Preparation],
        arrays: Sequence[Pixels],
        max_pixels: int,
    ) -> None:
        self._images = images
        self._preparations = preparations
        self._arrays = arrays
        self._max_pixels = max_pixels
        self._at_once = min(_MOST_AT_ONCE, 1 + len(images) // _FEW)
        self._next = 0
        self._first_bad: tuple[int, ImageError] | None = None

    async def run(self, threads: Executor) -> None:
        """Fill the arrays; raises `InvalidRequest` naming the first image that can't be used."""
        lanes = min(_LANES, -(-len(self._images) // self._at_once))
        await asyncio.gather(*(self._lane(threads) for _ in range(lanes)))
        if self._first_bad is not None:
            row, error = self._first_bad
            raise InvalidRequest(f"image {row}: {error}")

    async def _lane(self, threads: Executor) -> None:
        loop = asyncio.get_running_loop()
        while self._first_bad is None and self._next < len(self._images):
            start, self._next = self._next, self._next + self._at_once
            bad = await loop.run_in_executor(threads, self._preprocess, start)
            if bad is not None and (self._first_bad is None or bad[0] < self._first_bad[0]):
                self._first_bad = bad

    def _preprocess(self, start: int) -> tuple[int, ImageError] | None:
        """Preprocess some images, in a thread; returns the row and error of a bad one."""
        for row in range(start, min(start + self._at_once, len(self._images))):
            try:
                made = preprocess_image(self._images[row], self._preparations, self._max_pixels)
            except ImageError as error:
                return row, error.with_traceback(None)
            for array, pixels in zip(self._arrays, made, strict=True):
                array[row] = pixels
        return None


def preprocess_image(
    image: EncodedImage | Pixels, preparations: Sequence[Preparation], max_pixels: int
) -> list[Pixels]:
    """Preprocess one image in several ways: decoded once, each distinct preparation made once.

    Takes an encoded image or pixels uint8 [height, width, 3] in RGB, of at most `max_pixels`
    pixels; returns one uint8 [side, side, 3] per preparation, in order. Raises `ImageError`.
    """
    if isinstance(image, np.ndarray):
        opened = _from_pixels(image, max_pixels)
    else:
        opened = decode_image(image, max_pixels)
    made = {wanted: crop_and_resize(opened, wanted) for wanted in dict.fromkeys(preparations)}
    return [made[wanted] for wanted in preparations]


def decode_image(data: EncodedImage, max_pixels: int) -> Image.Image:
    """Decode a JPEG, PNG, WebP, BMP, GIF or TIFF image to RGB.

    Its EXIF orientation is applied; transparent parts lie over white; of an animation the first
    frame is taken; 16-bit greys keep their upper eight bits. Raises `ImageError` if it is no such
    image, damaged, or has more than `max_pixels` pixels, which is checked before decoding.
    """
    if not data:
        raise ImageError("the image is empty (0 bytes)")
    file = io.BytesIO(data)
    try:
        image = Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError:
        supported = ", ".join(_FORMATS)
        raise ImageError(f"not an image, or none of {supported}") from None
    except Exception as damage:
        raise _damaged(damage) from damage
    _check_size(image.width, image.height, max_pixels)
    try:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)
    except ImageError:
        raise
    except Exception as damage:
        raise _damaged(damage) from damage


def crop_and_resize(image: Image.Image, preparation: Preparation) -> Pixels:
    """Resize an RGB image and crop its centre, to uint8 [side, side, 3].

    The short side becomes ``round(size / crop)`` pixels, of which the central `side` are kept.
    """
    size = preparation.side
    kept = min(image.size) * size / round(preparation.size / preparation.crop)
    left, top = (image.width - kept) / 2, (image.height - kept) / 2
    # Crop and resize in one step: of an image 1 x 1,000,000 only the visible part is made.
    box = (left, top, left + kept, top + kept)
    small = image.resize((size, size), _FILTERS[preparation.interpolation], box=box)
    return np.asarray(small)


def _from_pixels(pixels: Pixels, max_pixels: int) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ImageError(
            f"an image must be UINT8 [height, width, 3], not {pixels.dtype} {list(pixels.shape)}"
        )
    _check_size(pixels.shape[1], pixels.shape[0], max_pixels)
    return Image.fromarray(pixels)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"the image has no pixels ({width}x{height})")
    if width * height > max_pixels:
        raise ImageError(
            f"the image is too large: {width}x{height} pixels, at most {max_pixels} are allowed"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ImageError("floating-point images are not supported")
    if image.mode.startswith("I"):
        # Pillow would clip at 255 instead of scaling.
        grey = np.asarray(image).clip(0, 65535) >> 8
        image = Image.fromarray(grey.astype(np.uint8))
    if image.has_transparency_data:
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Lay a transparent image over white, tile by tile: Pillow holds the GIL for each."""
    opaque = Image.new("RGB", image.size)
    width = min(image.width, _TILE_PIXELS)
    height = max(1, _TILE_PIXELS // width)
    for top in range(0, image.height, height):
        for left in range(0, image.width, width):
            box = (left, top, min(left + width, image.width), min(top + height, image.height))
            tile = image.crop(box).convert("RGBA")
            white = Image.new("RGBA", tile.size, "white")
            opaque.paste(Image.alpha_composite(white, tile).convert("RGB"), box)
    return opaque


def _damaged(damage: Exception) -> ImageError:
    reason = " ".join(str(damage).split()) or type(damage).__name__
    return ImageError(f"the image is damaged or truncated: {reason}")
