"""Means and variances that are outputs of their own, joined to one."""

import numpy as np
import pytest

from workers.backends import ModelError, load
from workers.runtime.spec import DeviceSpec, FakeOptions, ModelSource

CPU = DeviceSpec("cpu:0", "cpu-1", memory_bytes=1 << 30)


def opened(outputs, chosen, spreads):
    fake = FakeOptions({"x": (4,)}, outputs)
    return load(ModelSource("a", "fake", outputs=chosen, spreads=spreads, fake=fake), CPU)


def test_two_outputs_become_one_with_both_along_a_new_axis():
    model = opened(
        {"other": (1,), "mean": (2,), "spread": (2,)}, ("mean", "other"), {"mean": "spread"}
    )
    described = [(one.name, one.datatype, one.shape) for one in model.signature.outputs]
    assert described == [("mean", "FP32", (2, 2)), ("other", "FP32", (1,))]
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    model.arm()
    mean, other = model.predict([x])
    np.testing.assert_array_equal(mean, np.stack([x[:, :2], x[:, :2]], axis=-1))
    np.testing.assert_array_equal(other, x[:, :1])
    model.close()


def test_an_output_may_be_served_and_joined():
    model = opened({"mean": (2,), "spread": (2,)}, ("mean", "spread"), {"mean": "spread"})
    assert [one.shape for one in model.signature.outputs] == [(2, 2), (2,)]


def test_outputs_of_different_shapes_do_not_belong_together():
    with pytest.raises(
        ModelError, match=r"'mean' has shape \[2\] per row, but .* 'spread' has \[1\]"
    ):
        opened({"mean": (2,), "spread": (1,)}, ("mean",), {"mean": "spread"})


def test_a_spread_that_is_not_there():
    with pytest.raises(ModelError, match="has no output 'sprea'; it has: mean, spread"):
        opened({"mean": (2,), "spread": (2,)}, ("mean",), {"mean": "sprea"})
