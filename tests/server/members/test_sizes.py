"""What is wrong with the sizes of members' inputs."""

import pytest
from inspected import composed, member, problems

from workers.runtime.spec import TensorSpec

IDS = TensorSpec("ids", "INT64", (-1,), (512,), ("ids.1",))
MASK = TensorSpec("mask", "INT64", (-1,), (512,), ("ids.1",))
TEXT = TensorSpec("text", "BYTES", (), (), ("text.bytes",), 104)
X = TensorSpec("x", "FP32", (4,))


@pytest.mark.parametrize(
    ("inputs", "section", "problem"),
    [
        ((X,), {"x": {"pad": 0}}, "inputs.x.pad: the model's input is of fixed size"),
        ((TEXT,), {"text": {"pad": 0}}, "inputs.text.pad: the model's input is BYTES"),
        ((IDS,), {"ids": {"pad": 0.5}}, "inputs.ids.pad: 0.5 is not INT64"),
        ((IDS, MASK), {"ids": {"pad": 0}}, "inputs.mask.pad: is required, since another"),
        (
            (IDS, MASK),
            {"mask": {"mask": "idz"}, "ids": {"pad": 0}},
            "inputs.mask.mask: the model has no other input 'idz', it has ['ids']",
        ),
        (
            (IDS, X),
            {"x": {"mask": "ids"}, "ids": {"pad": 0}},
            "inputs.x.mask: the model takes FP32 [4], which is no mask of ids, INT64 [-1]",
        ),
    ],
)
def test_inputs(inputs, section, problem):
    found = problems([member("m", inputs=inputs, tensors=section)])
    assert any(line.startswith(f"members.m.{problem}") for line in found), found


@pytest.mark.parametrize(
    ("inputs", "buckets", "problem"),
    [
        ((X,), [8], "are for a model with one variable dimension, it has none"),
        ((IDS, TEXT), [8], "are for a model with one variable dimension, it has ids.1, text.bytes"),
        ((IDS,), [8, 1024], "1024 is above the largest size, 512"),
    ],
)
def test_buckets(inputs, buckets, problem):
    found = problems([member("m", inputs=inputs, buckets=buckets)])
    assert list(found) == [f"members.m.buckets: {problem}"]


def test_augmentation_is_for_fixed_sizes():
    found = problems([member("m", inputs=(IDS,), augment=["identity"])])
    assert "members.m.augment: is for inputs of fixed size" in found


def test_lengths_are_for_variable_dimensions():
    found = problems([member("m", inputs=(X,), lengths={8: 1.0})])
    assert list(found) == ["members.m.lengths: is for inputs with variable dimensions"]


def test_members_agree_on_the_largest_size():
    short = TensorSpec("ids", "INT64", (-1,), (128,), ("ids.1",))
    (line,) = problems([member("a", inputs=(IDS,)), member("b", inputs=(short,))])
    assert "'a' takes ids INT64 [-1] up to [512], 'b' takes ids INT64 [-1] up to [128]" in line
    mask = TensorSpec("mask", "INT64", (-1,), (128,), ("ids.1",))
    (line,) = problems([member("a", inputs=(IDS,)), member("b", inputs=(mask,))])
    assert "'ids' of 'a' 512, 'mask' of 'b' 128 (give both the same max_shape)" in line


def test_what_fits_is_composed():
    section = {"ids": {"pad": 0}, "mask": {"mask": "ids"}}
    one = member("m", inputs=(IDS, MASK), tensors=section, buckets=[32, 512])
    assert len(composed([one]).arenas) == 2
