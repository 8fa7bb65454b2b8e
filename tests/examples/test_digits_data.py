"""Digits as files to calibrate with."""

import numpy as np
import pytest
from digits import held_out
from digits_data import write_data


@pytest.mark.slow
def test_files_of_digits_and_of_inputs_that_are_none(tmp_path):
    x, y = held_out()
    paths = write_data(tmp_path / "data", x, y)
    assert [path.name for path in paths] == [
        *("digits.npz", "noise.npz", "shuffled.npz", "inverted.npz", "turned.npz", "photos.npz")
    ]
    with np.load(paths[0]) as digits:
        np.testing.assert_array_equal(digits["x"], x)
        np.testing.assert_array_equal(digits["y"], y)
    for path in paths[1:]:
        with np.load(path) as outside:
            (name,) = outside.files
            inputs = outside[name]
        assert (name, inputs.shape, inputs.dtype) == ("x", x.shape, np.float32)
        assert inputs.min() >= 0
        assert inputs.max() <= 16
        assert not np.array_equal(inputs, x)


def test_the_same_files_every_time(tmp_path):
    x, y = held_out()
    first, second = (write_data(tmp_path / name, x[:20], y[:20]) for name in "ab")
    for one, other in zip(first, second, strict=True):
        with np.load(one) as a, np.load(other) as b:
            np.testing.assert_array_equal(a["x"], b["x"])
