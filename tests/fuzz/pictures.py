"""Images of every bad and every unusual kind, made once. Pure."""

from __future__ import annotations

import io
import random
import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image

from tests.fuzz.case import damage

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb(width: int = 20_000, height: int = 20_000) -> bytes:
    """A PNG whose header promises many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


@cache
def good() -> tuple[bytes, ...]:
    """Images that are answered, unusual ones among them."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8)
    photo = Image.fromarray(pixels)
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "green", "blue")]
    return (
        *(encoded(photo, kind) for kind in _FORMATS),
        encoded(Image.new("RGB", (1, 1)), "PNG"),
        encoded(Image.new("RGB", (1, 3000)), "PNG"),
        encoded(Image.new("CMYK", (8, 8)), "JPEG"),
        encoded(Image.new("CMYK", (8, 8)), "TIFF"),
        encoded(Image.new("RGBA", (8, 8)), "PNG"),
        encoded(Image.new("1", (8, 8)), "PNG"),
        encoded(photo.quantize(5), "PNG"),
        encoded(Image.fromarray(np.full((8, 8), 0x80FF, np.uint16)), "PNG"),
        encoded(Image.fromarray(np.full((8, 8), 0x80FF, np.uint16)), "TIFF"),
        *(
            encoded(frames[0], kind, save_all=True, append_images=frames[1:])
            for kind in ("GIF", "WEBP", "PNG", "TIFF")
        ),
    )


@cache
def _bad() -> tuple[bytes, ...]:
    return (
        b"",
        b"nonsense",
        b"<svg/>",
        b"GIF89a",
        b"BM",
        b"RIFF\x04\0\0\0WEBP",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        bomb(),
        bomb(0, 7),
        bomb(2**31 - 1, 2**31 - 1),
        encoded(Image.new("F", (8, 8)), "TIFF"),
        encoded(Image.new("1", (3000, 3000)), "PNG"),  # more pixels than are allowed
    )


def picture(rng: random.Random) -> bytes:
    """Some image, or none."""
    match rng.randrange(4):
        case 0:
            return rng.choice(_bad())
        case 1:
            return rng.choice(good())
        case 2:
            image = rng.choice(good())
            return image[: rng.randrange(len(image))]
        case _:
            return damage(rng, rng.choice(good()))
