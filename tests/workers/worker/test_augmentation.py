"""Test-time augmentation: the variants of rows, and what becomes of their predictions."""

import textwrap

import numpy as np
import pytest
from arenas import arena_spec, claim, mapped, open_arena, vector

from workers.runtime.spec import (
    AugmentationSpec,
    Binding,
    BlockSpec,
    InstanceSpec,
    ModelSignature,
    ModelSource,
    OutputSpec,
    Scaling,
    TensorSpec,
    Variant,
)
from workers.worker.augmentation import (
    AugmentationTrial,
    Augmenter,
    combiner,
    try_augmentations,
    variance_of,
)
from workers.worker.instance import Instance

RANDOM = np.random.default_rng(3)
PIXELS = RANDOM.integers(0, 256, (2, 8, 8, 3), np.uint8)
TENSOR = RANDOM.normal(size=(2, 3, 5, 6)).astype(np.float32)


def vary(rows, *variants, is_image=False, **options):
    augmenter = Augmenter(AugmentationSpec(variants, **options), is_image=is_image)
    return np.split(augmenter.vary(rows), len(variants))


def test_pixels_lose_their_margin_and_move_within_it():
    moves = [(0, 0), (2, -2), (1, 0)]
    plain, corner, down = vary(
        PIXELS, *(Variant(shift=one) for one in moves), is_image=True, margin=2
    )
    assert (plain == PIXELS[:, 2:6, 2:6]).all()
    assert (corner == PIXELS[:, :4, 4:]).all(), "what was at the top right is in the middle now"
    assert (down == PIXELS[:, 1:5, 2:6]).all()
    (mirrored,) = vary(PIXELS, Variant(shift=(2, 2), flip=True), is_image=True, margin=2)
    assert (mirrored == PIXELS[:, :4, 3::-1]).all()


def test_beyond_the_margin_the_edge_is_repeated():
    (moved,) = vary(PIXELS, Variant(shift=(0, 3)), is_image=True, margin=1)
    assert (moved == np.pad(PIXELS, [(0, 0), (0, 0), (2, 0), (0, 0)], "edge")[:, 1:7, :6]).all()
    (moved,) = vary(TENSOR, Variant(shift=(-1, 2)))
    edges = TENSOR[..., [1, 2, 3, 4, 4], :][..., [0, 0, 0, 1, 2, 3]]
    assert (moved == edges).all()


def test_tensors_are_mirrored_along_their_width():
    same, mirrored = vary(TENSOR, Variant(), Variant(flip=True))
    assert (same == TENSOR).all()
    assert (mirrored == TENSOR[..., ::-1]).all()


@pytest.mark.parametrize("rule", ["mean", "median", "max", "geometric_mean"])
def test_predictions_of_variants_become_one(rule):
    spec = AugmentationSpec((Variant(),) * 3, rule=rule)
    p = RANDOM.dirichlet(np.ones(4), (3, 5)).astype(np.float32)
    wanted = {
        "mean": p.mean(axis=0),
        "median": np.median(p, axis=0),
        "max": p.max(axis=0),
        "geometric_mean": np.exp(np.log(p).mean(axis=0)),
    }[rule]
    if rule == "geometric_mean":
        wanted /= wanted.sum(axis=-1, keepdims=True)
    combine = combiner(spec, OutputSpec(0, "probabilities"), np.dtype(np.float32))
    combined = combine(p.reshape(15, 4))
    assert combined.dtype == np.float32
    np.testing.assert_allclose(combined, wanted, rtol=1e-5)
    variance = variance_of(spec, OutputSpec(0, "probabilities"))(p.reshape(15, 4))
    np.testing.assert_allclose(variance, p.var(axis=0).mean(axis=-1), rtol=1e-5)
    p[1, 3, 2] = np.nan
    assert np.isnan(combine(p.reshape(15, 4))).any(axis=1).tolist() == [0, 0, 0, 1, 0]
    assert combine(p.reshape(15, 4)[:14]).shape == (14, 4), "the model's fault, found elsewhere"


def test_maps_of_what_is_mirrored_are_mirrored_back():
    spec = AugmentationSpec((Variant(), Variant(flip=True)))
    maps = RANDOM.random((4, 3, 2, 5)).astype(np.float32)
    output = OutputSpec(0, "probabilities", class_axis=-3)
    both = np.stack([maps[:2], maps[2:, :, :, ::-1]])
    combined = combiner(spec, output, maps.dtype)(maps)
    np.testing.assert_allclose(combined, both.mean(axis=0), rtol=1e-6)
    variance = variance_of(spec, output)(maps)
    np.testing.assert_allclose(variance, both.var(axis=0).mean(axis=(1, 2, 3)), rtol=1e-5)


class Sum:
    """A model that answers the sum and the first element of its first input, plus the second."""

    example = None

    def __init__(self, *inputs):
        self.signature = ModelSignature(inputs, (vector(2),), 0)
        self.batches = []
        self.failing = set()

    def arm(self):
        pass

    def predict(self, inputs):
        x = inputs[0].reshape(len(inputs[0]), -1)
        self.batches.append(len(x))
        if len(x) in self.failing:
            raise RuntimeError("too many rows")
        more = inputs[1].reshape(len(x)) if len(inputs) > 1 else 0
        return [np.stack([x.sum(axis=1), x[:, 0]], axis=1) + np.reshape(more, (-1, 1))]


@pytest.fixture
def scene(request):
    """An instance that sees an image in three ways, beside a number; and its arena."""
    views = (TensorSpec("image", "UINT8", (6, 6, 3)), TensorSpec("n", "INT64", ()))
    blocks = (BlockSpec((0, 1, 2), "FP32", (2,)), BlockSpec((3,), "FP32", ()))
    augmentation = AugmentationSpec(
        (Variant(), Variant(flip=True), Variant(shift=(1, 1))), margin=1, variance_area=3
    )
    with mapped(arena_spec(views=views, blocks=blocks)) as memory:
        arena = open_arena(memory)
        model = Sum(TensorSpec("x", "FP32", (3, 4, 4)), TensorSpec("n", "FP32", ()))
        scaling = Scaling((10, 20, 30), (2, 4, 8), "nchw")
        spec = InstanceSpec(
            arena=0,
            member=1,
            batch=4,
            source=ModelSource("b", "fake"),
            signature=model.signature,
            bindings=(Binding(0, scaling), Binding(1)),
            outputs=(OutputSpec(1, "values"),),
            augmentation=augmentation,
        )
        yield arena, model, Instance(spec, arena, model)


START = 32 * 5


def fill(arena, rows):
    claim(arena, START, START + rows, expected=0b111)
    slots = arena.slots(START, START + rows)
    pixels = RANDOM.integers(0, 256, (rows, 6, 6, 3), np.uint8)
    numbers = np.arange(rows)
    arena.views[0][slots], arena.views[1][slots] = pixels, numbers
    views = [pixels[:, 1:5, 1:5], pixels[:, 1:5, 4:0:-1], pixels[:, :4, :4]]
    scaled = [(one - np.array([10, 20, 30.0])) / [2, 4, 8] for one in views]
    each = np.stack(
        [
            np.stack([one.sum(axis=(1, 2, 3)), one[:, 0, 0, 0]], axis=1) + numbers[:, np.newaxis]
            for one in scaled
        ]
    )
    return slots, each


def test_an_instance_predicts_all_variants_in_one_batch(scene):
    arena, model, instance = scene
    slots, each = fill(arena, 4)
    assert instance.run([(START, START + 4)]) == ""
    assert model.batches == [12]
    np.testing.assert_allclose(arena.predictions[1][slots], each.mean(axis=0), rtol=1e-5)
    wanted = each.var(axis=0).mean(axis=1)
    np.testing.assert_allclose(arena.predictions[3][slots], wanted, rtol=1e-5)
    assert arena.done[1][slots].tolist() == list(range(START, START + 4))


def test_the_warm_up_has_all_variants_and_a_failed_batch_is_halved(scene):
    arena, model, instance = scene
    instance.warm_up()
    assert model.batches == [3, 3, 12, 12]
    model.example = [np.zeros((1, 3, 4, 4), np.float32), np.zeros(1, np.float32)]
    instance.warm_up()
    assert model.batches[4:] == [3, 3, 12, 12], "as many of the model's own example"
    model.batches.clear()
    slots, each = fill(arena, 4)
    model.failing = {12}
    assert instance.run([(START, START + 4)]) == ""
    assert model.batches == [12, 6, 6]
    np.testing.assert_allclose(arena.predictions[1][slots], each.mean(axis=0), rtol=1e-5)


def test_functions_get_rows_that_they_cannot_write(tmp_path):
    (tmp_path / "mine.py").write_text("def brighter(x): return x + 1\ndef writes(x): x += 1")
    options = {"directory": str(tmp_path), "is_image": True, "margin": 2}
    (made,) = vary(PIXELS, Variant(function=f"{tmp_path}/mine.py:brighter"), **options)
    assert (made == PIXELS[:, 2:6, 2:6] + np.uint8(1)).all()
    with pytest.raises(RuntimeError, match=r"mine\.py:writes: ValueError: .*read-only .*line 2"):
        vary(PIXELS, Variant(function=f"{tmp_path}/mine.py:writes"), **options)


BROKEN = {
    "there is no module 'nowhere'": "nowhere:f",
    "has no 'other'": "augments:other",
    "augments:number: 'number' of module augments is not a function": "augments:number",
    "augments:smaller returned shape [3, 2], not [3, 4]": "augments:smaller",
    "augments:wider returned float64, not uint8": "augments:wider",
    "augments:raises: KeyError: 'why' (augments.py, line": "augments:raises",
    "augments:exits: SystemExit: 3": "augments:exits",
    "a row's result depends on the other rows": "augments:upside_down",
    "died of SIGKILL": "augments:dies",
}


@pytest.mark.process
def test_functions_are_tried_in_a_child(tmp_path):
    (tmp_path / "augments.py").write_text(
        textwrap.dedent("""
            import os, signal
            import numpy as np

            print("a module may print")
            number = 3

            def fine(x):
                return x + np.random.default_rng().integers(0, 9, x.shape, np.uint8)

            def smaller(x):
                return x[:, :2]

            def wider(x):
                return x * 0.5

            def raises(x):
                raise KeyError("why")

            def exits(x):
                raise SystemExit(3)

            def upside_down(x):
                return x[::-1]

            def dies(x):
                os.kill(os.getpid(), signal.SIGKILL)
        """)
    )

    def trial(function):
        variants = (Variant(), Variant(function=function))
        spec = AugmentationSpec(variants, directory=str(tmp_path))
        return AugmentationTrial("m", spec, TensorSpec("x", "UINT8", (4,)), is_image=False)

    found = try_augmentations([trial(one) for one in ("augments:fine", *BROKEN.values())])
    assert found[0] == ""
    for wanted, problem in zip(BROKEN, found[1:], strict=True):
        assert wanted in problem
        assert "\n" not in problem
