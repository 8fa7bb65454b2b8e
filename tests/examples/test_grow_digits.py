"""The example of a library that grows: its images, and one network of it."""

import numpy as np
import pytest

from examples.grow_digits import load_images, split, train, write_data
from server.growth.training import Run
from server.growth.training import train as run_train


def test_a_fifth_of_the_images_is_for_validation_and_another_for_the_test(tmp_path):
    x, y = load_images()
    parts = split(x, y)
    assert [len(part) for part, _ in parts] == [len(x) - 2 * (len(x) // 5), *[len(x) // 5] * 2]
    paths = write_data(tmp_path / "data")
    for path, (images, classes) in zip(paths, parts[1:], strict=True):
        with np.load(path) as held:
            np.testing.assert_array_equal(held["x"], images)
            np.testing.assert_array_equal(held["y"], classes)


def test_own_images_are_read(tmp_path):
    path = tmp_path / "own.npz"
    np.savez(path, x=np.full((6, 28, 28), 255, np.uint8), y=np.arange(6))
    x, y = load_images(str(path))
    assert (x.shape, x.dtype, x.max()) == ((6, 28, 28), np.float32, 255)
    assert y.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros(3)}, "should hold x and y, it has images"),
        ({"x": np.zeros((3, 784), np.uint8), "y": np.zeros(3, int)}, r"uint8 \[3, 784\]"),
        ({"x": np.zeros((3, 28, 28)), "y": np.zeros(3, int)}, r"not float64"),
        ({"x": np.zeros((3, 28, 28), np.uint8), "y": np.zeros(2, int)}, r"y should be .* \[3\]"),
        ({"x": np.zeros((3, 28, 28), np.uint8), "y": np.full(3, -1)}, "y should be the class"),
    ],
)
def test_images_of_another_form_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_images(str(tmp_path / "own.npz"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "more"), [("mlp", {}), ("cnn", {"kernel": 3})], ids=["mlp", "cnn"]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_network_is_trained_and_written(tmp_path, kind, more):
    own = tmp_path / "own.npz"
    y = np.arange(60) % 3
    x = np.random.default_rng(0).integers(0, 9, (60, 12, 10), np.uint8)
    x[np.arange(60), 3 * y] += 100
    np.savez(own, x=x, y=y)
    config = {"kind": kind, "width": 8, "depth": 2, "dropout": 0.1, "learning_rate": 0.01}
    config |= {"batch": 16, "images": str(own), **more}
    directory = tmp_path / "trials" / "0000"
    directory.mkdir(parents=True)
    run = Run(number=0, budget=2, directory=directory, device="cpu", cores=1, seed=1)
    trained = run_train(train, config, run, tmp_path, lambda step, value: False)
    assert 0 <= trained.quality <= 1
    assert trained.member == {"model": "trials/0000/model.onnx", "output": "logits"}
    assert (tmp_path / trained.member["model"]).stat().st_size == trained.nbytes
