"""What members must agree on, with their models and with each other."""

import pytest
from inspected import X, Y, composed, image, meaning, member, problems, renaming

from server.errors import ConfigError
from workers.runtime.spec import TensorSpec


def test_members_that_disagree_on_an_input():
    (line,) = problems([member("a"), member("b", inputs=(TensorSpec("x", "FP32", (5,)),))])
    assert line == (
        "ensembles.e: members disagree on their input 'x': 'a' takes x FP32 [4], "
        "'b' takes x FP32 [5] (members.b.inputs can convert it, or rename it if it is another)"
    )
    (line,) = problems([member("a"), member("b", inputs=(TensorSpec("x", "FP64", (4,)),))])
    assert "disagree on their input 'x'" in line
    lengths = [TensorSpec("x", "INT64", (-1,), (size,), ("n",)) for size in (16, 32)]
    (line,) = problems([member(name, inputs=(x,)) for name, x in zip("ab", lengths, strict=True)])
    assert "'a' takes x INT64 [-1] up to [16], 'b' takes x INT64 [-1] up to [32]" in line
    assert "members.b.inputs can give it the same max_shape" in line
    pixels = member("a", inputs=(TensorSpec("image", "FP32", (3, 8, 8)),))
    (line,) = problems([pixels, member("b", **image(8))])
    assert "'a' takes image FP32 [3, 8, 8], 'b' takes image BYTES []" in line
    three = [member("a"), member("b", inputs=(TensorSpec("z", "FP32", ()),)), member("c")]
    assert composed(three, {"e": {"members": ["a", "b", "c"]}})


def test_two_inputs_of_one_name_in_a_member():
    inputs = (*X, TensorSpec("y", "FP32", (4,)))
    with pytest.raises(ConfigError, match="members.a.inputs: two inputs are called 'x', rename"):
        composed([member("a", inputs=inputs, tensors={"y": "x"})])


def test_an_image_beside_tensors_must_fit_its_input():
    inputs = (*X, TensorSpec("pixels", "FP32", (3, 8, 8)))
    sizes = {"size": 8, "mean": 0, "std": 1}
    for own, options, line in (
        ("x", sizes, "inputs.x.image: the model takes x FP32 \\[4\\], not an image FP32 \\[3, 8"),
        ("pixels", {**sizes, "layout": "nhwc"}, "inputs.pixels.image: .* FP32 \\[8, 8, 3\\]"),
        ("other", sizes, "the model has no input 'other'"),
    ):
        with pytest.raises(ConfigError, match=line):
            composed([member("a", inputs=inputs, tensors={own: {"image": options}})])
    assert composed([member("a", inputs=inputs, tensors={"pixels": {"image": sizes}})])


def test_members_that_disagree_on_their_output():
    (line,) = problems([member("a"), member("b", output=TensorSpec("y", "FP32", (4,)))])
    assert line == ("ensembles.e: members disagree on the shape of their output: 'a' [3], 'b' [4]")


def test_members_that_disagree_on_what_their_output_means():
    (line,) = problems([meaning("a", "logits"), meaning("b", "values")])
    assert "disagree on what their output means: 'a' gives logits, 'b' gives values" in line
    assert composed(
        [meaning("a", "logits"), meaning("b", "probabilities")], {"e": {"members": ["a", "b"]}}
    )


def test_a_class_must_be_one_whole_number():
    for output in (Y, TensorSpec("y", "FP32", ()), TensorSpec("y", "INT64", (2,))):
        with pytest.raises(ConfigError, match="members.a.output: a class is one whole number"):
            composed([meaning("a", "class", output, classes=3)])


def test_temperatures_need_an_output_per_class():
    scalar = TensorSpec("y", "FP32", ())
    assert composed([meaning("a", "probabilities", scalar)])
    with pytest.raises(ConfigError, match="a.output: probabilities need an output per class"):
        composed([meaning("a", "probabilities", scalar, temperature=2)])


def test_rules_that_the_outputs_do_not_allow():
    scalar = TensorSpec("y", "FP32", ())
    lines = problems([meaning("a", "probabilities", scalar)], rule="vote")
    assert any("vote needs an output per class" in line for line in lines)
    lines = problems([meaning("a", "values")], rule="geometric_mean")
    assert any("not values" in line for line in lines)
    with pytest.raises(ConfigError, match="members.a.output: logits need an output per class"):
        composed([meaning("a", "logits", scalar)])


def test_an_image_member_whose_model_takes_none():
    with pytest.raises(ConfigError, match="members.a.input.image: the model takes x FP32"):
        composed([member("a", **{**image(8), "inputs": X})])
    with pytest.raises(ConfigError, match="not one image FP32"):
        composed([member("a", **image(8, layout="nhwc"))])


def test_an_image_member_in_half_precision():
    pixels = (TensorSpec("pixels", "FP16", (3, 8, 8)),)
    result = composed([member("a", **{**image(8), "inputs": pixels}), member("b", **image(8))])
    assert len(result.arenas) == 1


@pytest.mark.parametrize(
    ("given", "own", "fine"),
    [
        ("FP64", "FP16", True),
        ("FP16", "FP64", True),
        ("UINT8", "FP16", True),
        ("INT32", "INT64", True),
        ("BOOL", "INT8", True),
        ("INT64", "INT32", False),
        ("INT32", "FP32", False),
        ("INT32", "FP64", True),
        ("INT64", "FP64", False),
        ("FP32", "INT64", False),
        ("BF16", "FP32", True),
        ("FP32", "BF16", True),
        ("BF16", "UINT16", False),
        ("UINT16", "BF16", False),
        ("UINT8", "BF16", False),
    ],
)
def test_only_floats_are_converted_with_loss(given, own, fine):
    one = renaming("a", (TensorSpec("x", own, (4,)),), {"x": {"datatype": given}})
    if fine:
        assert composed([one]).arenas[0].views == (TensorSpec("x", given, (4,)),)
        return
    with pytest.raises(ConfigError, match=f"members.a.inputs.x.datatype: {given} can't be conv"):
        composed([one])


@pytest.mark.parametrize(
    "wrong",
    [
        {"datatype": "FP32", "shape": [5]},
        {"datatype": "FP32", "shape": [4], "model_datatype": "FP16"},
    ],
)
def test_a_description_that_the_model_contradicts(wrong):
    with pytest.raises(ConfigError, match=r"members.a.inputs.x: the model takes x FP32 \[4\]"):
        composed([renaming("a", X, {"x": wrong})])


def test_names_of_inputs_that_the_model_does_not_have():
    with pytest.raises(ConfigError, match=r"members.a.inputs: the model has no input 'y', .*'x'"):
        composed([renaming("a", X, {"y": "x"})])
