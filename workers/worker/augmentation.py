"""Test-time augmentation: a member predicts variants of a row, which are combined into one.

Runs in the worker, and in a child process when the configuration is checked. Rows as they are
stored flow in, rows of all variants flow to the model, variant by variant; its predictions of these
flow in, one per row flows out, and how much they vary.

Sources: Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural
Networks" (NeurIPS 2012), for crops and reflections; Wang et al., "Aleatoric uncertainty estimation
with test-time augmentation for medical image segmentation" (Neurocomputing 338, 2019), for the
variance.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from workers.backends.files import changed_file
from workers.rules.catalogue import RULES
from workers.runtime.child_main import end_with
from workers.runtime.child_process import ChildError, run_child
from workers.runtime.importing import ImportFailed, describe_failure, import_function
from workers.runtime.spec import AugmentationSpec, OutputSpec, TensorSpec, Variant

__all__ = [
    "AugmentationTrial",
    "Augmenter",
    "augments_of",
    "combiner",
    "main",
    "try_augmentations",
    "variance_of",
]

Array = npt.NDArray[Any]

_TRIAL_ROWS = 3
_TIMEOUT_S = 120.0
#: Of stored pixels [rows, height, width, 3], and of tensors [rows, channels, height, width].
_PIXEL_AXES, _TENSOR_AXES = (1, 2), (2, 3)


class Augmenter:
    """Makes the variants of rows; `is_image` is whether these are stored pixels.

    Raises:
        RuntimeError: if a function can't be imported, or its code has changed since it was stamped.
    """

    def __init__(self, spec: AugmentationSpec, *, is_image: bool) -> None:
        self._margin = spec.margin
        self._variants = spec.variants
        self._axes = _PIXEL_AXES if is_image else _TENSOR_AXES
        self._functions = {
            one.function: _imported(one.function, spec) for one in spec.variants if one.function
        }

    def vary(self, rows: Array) -> Array:
        """Return all variants of rows [n, ...] without their margin, [variants * n, ...].

        Raises:
            RuntimeError: if a function fails, or returns something else than such rows.
        """
        return np.concatenate([self._variant(rows, one) for one in self._variants])

    def repeat(self, rows: Array) -> Array:
        """Return rows of an input that does not vary as often, [variants * n, ...]."""
        return np.concatenate([rows] * len(self._variants))

    def _variant(self, rows: Array, variant: Variant) -> Array:
        window = self._window(rows, variant.shift)
        if variant.function:
            return self._call(variant.function, np.ascontiguousarray(window))
        return np.flip(window, self._axes[1]) if variant.flip else window

    def _window(self, rows: Array, shift: tuple[int, int]) -> Array:
        """The rows without their margin, moved; what lies beyond the margin repeats the edge."""
        if self._margin == 0 and shift == (0, 0):
            return rows
        beyond = max(0, *(abs(moved) - self._margin for moved in shift))
        if beyond:
            widths = [(beyond * (axis in self._axes),) * 2 for axis in range(rows.ndim)]
            rows = np.pad(rows, widths, mode="edge")
        index = [slice(None)] * rows.ndim
        for axis, moved in zip(self._axes, shift, strict=True):
            start = self._margin + beyond - moved
            size = rows.shape[axis] - 2 * (self._margin + beyond)
            index[axis] = slice(start, start + size)
        return rows[tuple(index)]

    def _call(self, name: str, rows: Array) -> Array:
        given = rows.view()
        given.flags.writeable = False
        try:
            made = np.asarray(self._functions[name](given))
        except BaseException as failure:  # SystemExit, too, which would end the process
            raise RuntimeError(f"{name}: {describe_failure(failure)}") from failure
        if made.shape != rows.shape:
            raise RuntimeError(f"{name} returned shape {list(made.shape)}, not {list(rows.shape)}")
        if not np.can_cast(made.dtype, rows.dtype, "same_kind"):
            raise RuntimeError(f"{name} returned {made.dtype}, not {rows.dtype}")
        return made.astype(rows.dtype, copy=False)


def _imported(reference: str, spec: AugmentationSpec) -> Callable[[Array], Any]:
    if changed := changed_file(spec.stamps):
        raise RuntimeError(f"{changed} is not what it was when it was deployed: reload")
    try:
        return import_function(reference, spec.directory)
    except ImportFailed as failure:
        raise RuntimeError(f"{reference}: {failure}") from failure


def augments_of(spec: AugmentationSpec, is_image: Sequence[bool]) -> list[Callable[[Array], Array]]:
    """Return what makes the variants of each input of a model, in its order; see `Augmenter`."""
    augmenter = Augmenter(spec, is_image=is_image[spec.input])
    augments: list[Callable[[Array], Array]] = [augmenter.repeat] * len(is_image)
    augments[spec.input] = augmenter.vary
    return augments


def combiner(
    spec: AugmentationSpec, output: OutputSpec, dtype: np.dtype[Any]
) -> Callable[[Array], Array]:
    """Return the function from an output's predictions [variants * n, ...] to combined [n, ...].

    These are of a `dtype`, and NaN where the prediction of any variant is. What has another number
    of rows is returned as it is.
    """
    rule, weights = RULES[spec.rule], np.ones(len(spec.variants))

    def combine(predictions: Array) -> Array:
        stacked = _stack(spec, output, predictions)
        if stacked is None:
            return predictions
        stacked = stacked.astype(dtype, copy=False)
        combined = np.empty(stacked.shape[1:], dtype)
        rule(stacked, weights, combined)
        invalid = np.isnan(stacked)
        if invalid.any():
            combined[invalid.reshape(*stacked.shape[:2], -1).any(axis=(0, 2))] = np.nan
        return combined

    return combine


def variance_of(spec: AugmentationSpec, output: OutputSpec) -> Callable[[Array], Array]:
    """Return the function from an output's predictions [variants * n, ...] to a variance, FP32 [n].

    It is over the variants, averaged over the outputs, as the score `variance` over members.
    """

    def variance(predictions: Array) -> Array:
        stacked = _stack(spec, output, predictions)
        if stacked is None:
            return predictions
        spread = stacked.astype(np.float64).var(axis=0)
        return np.asarray(spread.reshape(len(spread), -1).mean(axis=1).astype(np.float32))

    return variance


def _stack(spec: AugmentationSpec, output: OutputSpec, predictions: Array) -> Array | None:
    """Predictions as [variants, n, ...], None if they are not as many.

    Maps of classes, [classes, height, width], of what is mirrored are mirrored back.
    """
    variants = len(spec.variants)
    if len(predictions) % variants:
        return None
    shape = variants, len(predictions) // variants, *predictions.shape[1:]
    stacked = predictions.reshape(shape)
    flipped = [position for position, one in enumerate(spec.variants) if one.flip]
    if flipped and output.class_axis != -1:
        stacked = stacked.copy()
        stacked[flipped] = np.flip(stacked[flipped], -1)
    return stacked


# -- trials ------------------------------------------------------------------------------------


class AugmentationTrial(msgspec.Struct, frozen=True):
    """What is to be tried before anything is started: see `Augmenter`.

    `member` is its name, `stored` a row of the input that varies.
    """

    member: str
    augmentation: AugmentationSpec
    stored: TensorSpec
    is_image: bool


def try_augmentations(trials: Sequence[AugmentationTrial]) -> list[str]:
    """Call all functions on random rows, each member's in a child of its own.

    Returns the problem of each trial, "" if there is none.
    """
    if not trials:
        return []
    with ThreadPoolExecutor(min(len(trials), os.cpu_count() or 1)) as pool:
        return list(pool.map(_try_in_child, trials))


def _try_in_child(trial: AugmentationTrial) -> str:
    try:
        answer = run_child(
            f"trial of the augmentations of member {trial.member}",
            "workers.worker.augmentation",
            msgspec.json.encode(trial),
            _TIMEOUT_S,
        )
    except ChildError as error:
        return f"the process that tried it {error}"
    return msgspec.json.decode(answer, type=str)


def _try(trial: AugmentationTrial) -> str:
    generator = np.random.default_rng(0)
    shape, dtype = (_TRIAL_ROWS, *trial.stored.shape), trial.stored.dtype
    rows = (generator.random(shape) * (1 if dtype.kind == "f" else 100)).astype(dtype)
    for variant in trial.augmentation.variants:
        alone = msgspec.structs.replace(trial.augmentation, variants=(variant,))
        try:
            augmenter = Augmenter(alone, is_image=trial.is_image)
            made = augmenter.vary(rows)
            # What is random differs anyway; else a row must not depend on the others of its batch.
            if np.array_equal(made, augmenter.vary(rows)) and not np.array_equal(
                made, np.concatenate([augmenter.vary(rows[i : i + 1]) for i in range(len(rows))])
            ):
                return (
                    f"{variant.function}: a row's result depends on the other rows: it is called "
                    f"with a batch, {list(shape)}"
                )
        except RuntimeError as error:
            return str(error)
    return ""


def main() -> None:
    """Try the augmentations that stdin describes, and write the problem: the child's part."""
    trial = msgspec.json.decode(sys.stdin.buffer.read(), type=AugmentationTrial)
    end_with(msgspec.json.encode(_try(trial)))


if __name__ == "__main__":
    main()
