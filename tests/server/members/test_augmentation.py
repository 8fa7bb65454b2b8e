"""What of a test-time augmentation fits a member, and what the worker is told."""

import pytest
from inspected import composed, image, meaning, member

from server.errors import ConfigError
from workers.runtime.spec import AugmentationSpec, Preparation, TensorSpec, Variant

PIXELS = (TensorSpec("pixels", "FP32", (3, 8, 8)),)
MAPS = TensorSpec("maps", "FP32", (4, 8, 8))
SCORES = TensorSpec("y", "FP32", (4,))


def augmented(*augment, inputs=PIXELS, output=SCORES, **section):
    return member("m", inputs=inputs, output=output, augment=list(augment), **section)


def segmenting(*augment, **section):
    return meaning("m", "logits", MAPS, takes=PIXELS, augment=list(augment), **section)


def test_crops_and_shifts_get_a_margin_of_the_image_and_a_view_of_their_own():
    own = {"mean": 127, "std": 128, "crop": 0.5}
    members = [
        member("plain", **image(8, crop=0.5)),
        member("same", augment=["identity", "hflip"], **image(8, crop=0.5)),
        member("crops", augment=[{"crops": 5}, "hflip"], **image(8, crop=0.5)),
        member("shifts", augment=[{"shift": [-2, 1]}], **image(8, crop=0.5)),
        member("far", augment=[{"shift": [-9, 1]}], input={"image": {"size": 8, **own}},
               inputs=PIXELS),
    ]  # fmt: skip
    result = composed(members, {"e": {"members": ["plain", "crops", "far"]}})
    (arena,) = result.arenas
    assert [view.shape for view in arena.views] == [(8, 8, 3), (16, 16, 3), (12, 12, 3)]
    specs = {one.source.member: one for one in result.instances["cpu:0"]}
    assert [one.bindings[0].view for one in specs.values()] == [0, 0, 1, 2, 1]
    (sent,) = result.models[0].inputs
    assert [one.preparation for one in sent.views] == [
        Preparation(8, 0.5),
        Preparation(8, 0.5, margin=4),
    ]
    assert specs["plain"].augmentation is None
    crops = specs["crops"].augmentation
    assert crops.margin == 4
    assert crops.variants == (
        *(Variant(shift=(down, right)) for down in (4, -4) for right in (4, -4)),
        Variant(),
        Variant(flip=True),
    )
    areas = [specs[name].augmentation.variance_area for name in ("same", "crops", "shifts", "far")]
    assert areas == [5, 6, 7, 8], "behind the predictions of the five members"


def test_the_image_varies_or_the_only_input():
    table = TensorSpec("table", "FP32", (3,))
    options = {"pixels": {"image": {"size": 8, "mean": 0, "std": 1}}}
    both = augmented("hflip", inputs=(table, *PIXELS), tensors=options)
    (spec,) = composed([both]).instances["cpu:0"]
    assert spec.augmentation == AugmentationSpec(
        (Variant(flip=True),), input=1, directory=spec.augmentation.directory, variance_area=1
    )
    with pytest.raises(ConfigError, match="the image, or the only one, not table, pixels"):
        composed([augmented("hflip", inputs=(table, *PIXELS))])


@pytest.mark.parametrize(
    ("one", "complaint"),
    [
        (
            augmented({"shift": [0, 1]}, inputs=(TensorSpec("x", "FP32", (8, 8, 3)),)),
            "seems to have its channels last",
        ),
        (
            augmented("identity", "hflip", inputs=(TensorSpec("x", "FP32", (8,)),)),
            r"only \[channels, height, width\]",
        ),
        (
            augmented("any:function", inputs=(TensorSpec("x", "BF16", (8,)),)),
            "functions take numbers that NumPy has, not x BF16",
        ),
        (
            augmented(
                "identity",
                inputs=(TensorSpec("ids", "INT64", (-1,), (8,), ("n",)), *PIXELS),
                tensors={"pixels": {"image": {"size": 8, "mean": 0, "std": 1}}},
            ),
            r"is for inputs of fixed sizes, not ids INT64 \[-1\]",
        ),
        (
            augmented("hflip", output=MAPS),
            r"'output' \[4, 8, 8\] moves with what is moved: only identity and functions",
        ),
        (
            segmenting({"shift": [1, 1]}, class_axis=1),
            "only identity, hflip and functions fit it$",
        ),
        (segmenting("hflip", class_axis=1, augment_rule="vote"), "per class on the last axis"),
        (segmenting("hflip", class_axis=-1), "hflip, for maps of classes with class_axis"),
        (
            member(
                "m",
                inputs=PIXELS,
                output=TensorSpec("y", "FP32", (9, 4)),
                outputs={"y": {"max_shape": [9, 4]}},
                augment=["identity"],
            ),
            "the items of output 'y' differ from variant to variant",
        ),
        (
            augmented("identity", augment_rule="vote", output=TensorSpec("y", "FP32", ())),
            "augment_rule: vote needs a probability per class",
        ),
    ],
)
def test_what_does_not_fit(one, complaint):
    with pytest.raises(ConfigError, match=complaint):
        composed([one])


def test_maps_of_classes_may_be_mirrored():
    assert composed([segmenting("identity", "hflip", "any:function", class_axis=1)])
