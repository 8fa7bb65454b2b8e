"""Digits as files: those that no network has seen, and inputs that are no digits.

Used by ``digits.py --data DIRECTORY``; files flow out, in the form that `ensembled calibrate`
reads. The inputs from elsewhere have the shape and range of digits:

======== =========================================================================================
noise    each pixel by itself, uniform from 0 to 16
shuffled held-out digits, the pixels of each in a random order
inverted held-out digits, dark for light
turned   held-out digits, turned by a quarter; some of these are digits still
photos   squares of scikit-learn's two photos, made grey and 8 x 8
======== =========================================================================================
"""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["outside_digits", "write_data"]

Images = npt.NDArray[np.float32]

_SEED = 1
_WHITE = 16.0
_SIDE = 8
#: Pixels of a photo that become one.
_SCALE = 4


def write_data(directory: Path, x: Images, y: npt.NDArray[np.int64]) -> list[Path]:
    """Write `digits.npz` with x and y, and a file with x for each kind of outside inputs.

    Args:
        directory: is made if it is not there.
        x: held-out digits [n, 64].
        y: their classes [n].
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / "digits.npz"]
    np.savez_compressed(paths[0], x=x, y=y)
    for name, inputs in outside_digits(x).items():
        paths.append(directory / f"{name}.npz")
        np.savez_compressed(paths[-1], x=inputs)
    return paths


def outside_digits(x: Images) -> dict[str, Images]:
    """Return inputs that are no digits, by their kind, each [n, 64].

    Args:
        x: digits [n, 64], 0 to 16.
    """
    random = np.random.default_rng(_SEED)
    turned = np.rot90(x.reshape(-1, _SIDE, _SIDE), axes=(1, 2)).reshape(len(x), -1)
    return {
        "noise": random.uniform(0, _WHITE, x.shape).astype(np.float32),
        "shuffled": random.permuted(x, axis=1),
        "inverted": np.float32(_WHITE) - x,
        "turned": np.ascontiguousarray(turned),
        "photos": _squares(len(x), random),
    }


def _squares(count: int, random: np.random.Generator) -> Images:
    """Squares of photos, [count, 64], each pixel the mean of many."""
    photos = importlib.import_module("sklearn.datasets").load_sample_images().images
    side = _SIDE * _SCALE
    squares = []
    for number in range(count):
        grey = photos[number % len(photos)].mean(axis=2) * (_WHITE / 255)
        top, left = (int(random.integers(0, size - side)) for size in grey.shape)
        square = grey[top : top + side, left : left + side]
        squares.append(square.reshape(_SIDE, _SCALE, _SIDE, _SCALE).mean(axis=(1, 3)).ravel())
    return np.array(squares, np.float32)
