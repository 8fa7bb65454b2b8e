"""Pictures made up for a load test, encoded as PNG with zlib alone. Pure."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

__all__ = ["encode_png", "random_picture"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB = 2
_LEVEL = 6


def random_picture(random: np.random.Generator, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Return a picture [height, width, 3] that is neither plain nor noise.

    Smooth gradients of random colours with a little grain: such a file is about as large as a
    drawing, and decoding it costs about what it costs for a real one.
    """
    corners = random.uniform(0, 255, (2, 2, 3))
    down, right = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    upper = corners[0, 0] * (1 - right) + corners[0, 1] * right
    lower = corners[1, 0] * (1 - right) + corners[1, 1] * right
    grain = random.integers(-3, 4, (height, width, 1))
    picture: npt.NDArray[np.float64] = upper * (1 - down) + lower * down + grain
    return picture.clip(0, 255).astype(np.uint8)


def encode_png(picture: npt.NDArray[np.uint8]) -> bytes:
    """Encode a picture, [height, width, 3] RGB."""
    height, width, _ = picture.shape
    rows = np.zeros((height, 1 + width * 3), np.uint8)  # the first byte: no filter
    rows[:, 1:] = picture.reshape(height, width * 3)
    return b"".join(
        (
            _SIGNATURE,
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _RGB, 0, 0, 0)),
            _chunk(b"IDAT", zlib.compress(rows.tobytes(), _LEVEL)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
