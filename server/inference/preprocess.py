"""Makes `uint8` arrays out of images, encoded or not.

Runs in threads of the front-end: the bytes of an image (or its pixels) go in, one array per
preparation comes out; scaling to float is the worker's. Pillow releases the GIL while it decodes
and resizes, but for some tens of milliseconds with large images of some formats.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from workers.runtime.spec import Preparation

__all__ = ["MAX_PIXELS", "ImageError", "decode", "prepare", "prepare_all"]

#: Larger images are refused before they are decoded.
MAX_PIXELS = 50_000_000

#: Some milliseconds of work.
_TILE_PIXELS = 1 << 18

Pixels = npt.NDArray[np.uint8]

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

# Pillow only warns about big images, for the whole process; `decode` refuses them by itself.
Image.MAX_IMAGE_PIXELS = None


class ImageError(ValueError):
    """The client's image can't be used; the text is one line that says why."""


def decode(data: bytes | memoryview, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a JPEG, PNG, WebP, BMP, GIF or TIFF image.

    Turned as its EXIF orientation says; transparent parts lie over white; of an animation the
    first frame is taken; 16-bit greys keep their upper eight bits.

    Args:
        data: the encoded image.
        max_pixels: the most pixels it may have, checked before decoding.

    Returns:
        The image in RGB.

    Raises:
        ImageError: if it is no such image, damaged, or has too many pixels.
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


def prepare(image: Image.Image, preparation: Preparation) -> Pixels:
    """Resize an image and cut out its centre.

    Args:
        image: in RGB.
        preparation: the short side becomes ``round(size / crop)`` pixels, of which the central
            ``size`` x ``size`` are kept.

    Returns:
        uint8 [size, size, 3].
    """
    size = preparation.size
    kept = min(image.size) * size / round(size / preparation.crop)
    left, top = (image.width - kept) / 2, (image.height - kept) / 2
    # Cut and resize in one step: of an image 1 x 1,000,000 only the part that is seen is made.
    box = (left, top, left + kept, top + kept)
    small = image.resize((size, size), _FILTERS[preparation.interpolation], box=box)
    return np.asarray(small)


def prepare_all(
    image: bytes | memoryview | Pixels,
    preparations: Sequence[Preparation],
    max_pixels: int = MAX_PIXELS,
) -> list[Pixels]:
    """Prepare one image in several ways: it is decoded once, each distinct way is made once.

    Args:
        image: an encoded image, or the pixels uint8 [height, width, 3] in RGB.
        preparations: what to make.
        max_pixels: the most pixels the image may have.

    Returns:
        One array uint8 [size, size, 3] per preparation, in order.

    Raises:
        ImageError: if the image can't be used.
    """
    if isinstance(image, np.ndarray):
        opened = _from_pixels(image, max_pixels)
    else:
        opened = decode(image, max_pixels=max_pixels)
    made = {wanted: prepare(opened, wanted) for wanted in dict.fromkeys(preparations)}
    return [made[wanted] for wanted in preparations]


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
