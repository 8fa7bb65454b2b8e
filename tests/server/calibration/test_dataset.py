"""Files of data: what is read, how it is split, what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.calibration.dataset import read_classes, split_rows
from server.errors import ConfigError
from server.inference.dataset import read_inputs
from workers.runtime.spec import TensorSpec

PIXELS = TensorSpec("pixels", "FP32", (4,))
IMAGE = TensorSpec("image", "UINT8", (8, 8, 3))


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return tmp_path / "data.npz"

    return write


def inputs(path, *wanted):
    return read_inputs("--data", path, wanted or (PIXELS,))


@pytest.mark.parametrize("name", ["pixels", "x"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i8", "u1"])
def test_inputs_by_name_or_x_in_the_type_that_clients_send(save, name, dtype):
    x = np.arange(8).reshape(2, 4).astype(dtype)
    found = inputs(save(**{name: x, "y": [0, 1]}))
    assert found["pixels"].dtype == np.float32
    np.testing.assert_array_equal(found["pixels"], x)


def test_images_of_any_size(save):
    image = np.zeros((3, 20, 30, 3), np.uint8)
    assert inputs(save(image=image), IMAGE)["image"].shape == image.shape


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"z": np.zeros((2, 4))}, "has no input 'pixels'; it has z"),
        ({"x": np.zeros((2, 5))}, "x is [2, 5], not [rows, 4]"),
        ({"x": np.zeros((0, 4))}, "has no rows"),
        ({"x": np.zeros((2, 4), complex)}, "is complex128, not FP32"),
        ({"x": [[0, 0, 0, 0], [0, np.nan, 0, 0]]}, "x[1] is not a finite number"),
        ({"x": np.array([["a"] * 4])}, "is <U1, not FP32"),
    ],
)
def test_inputs_that_are_refused(save, arrays, problem):
    with pytest.raises(ConfigError) as error:
        inputs(save(**arrays))
    assert str(error.value).startswith("--data ")
    assert problem in str(error.value)


def test_several_inputs_have_as_many_rows(save):
    both = (PIXELS, TensorSpec("age", "FP32", ()))
    found = inputs(save(pixels=np.zeros((2, 4)), age=np.zeros(2)), *both)
    assert set(found) == {"pixels", "age"}
    with pytest.raises(ConfigError, match="differ in their number of rows"):
        inputs(save(pixels=np.zeros((2, 4)), age=np.zeros(3)), *both)
    with pytest.raises(ConfigError, match="has no input 'pixels'"):
        inputs(save(x=np.zeros((2, 4)), age=np.zeros(2)), *both)


def test_files_that_are_none(tmp_path):
    path = tmp_path / "data.npz"
    with pytest.raises(ConfigError, match="No such file"):
        inputs(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"is no \.npz file"):
        inputs(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ConfigError, match="is one array"):
        inputs(tmp_path / "one.npy")
    np.savez(path, x=np.array([[1, None]], object))
    with pytest.raises(ConfigError, match=r"is no \.npz file of arrays"):
        inputs(path)


def classes(path, rows=3, labels=("cat", "dog")):
    return read_classes("--data", path, rows, 2, labels)


def test_classes_by_index_or_label(save):
    assert classes(save(y=np.array([1, 0, 1], np.uint8))).tolist() == [1, 0, 1]
    assert classes(save(y=["dog", "cat ", "dog"])).tolist() == [1, 0, 1]
    assert classes(save(y=np.array([b"dog", b"cat", b"dog"]))).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"x": [1]}, "y, the class of each row, is not there; it has x"),
        ({"y": [0, 1]}, "should be a class per row, [3], not [2]"),
        ({"y": [0, 2, 1]}, "y[1] is 2, but the ensemble's classes are 0 to 1"),
        ({"y": [0, 1, -1]}, "y[2] is -1, but"),
        ({"y": [0.0, 1.0, 1.0]}, "should be whole numbers or labels, not float64"),
        ({"y": ["dog", "cow", "dog"]}, "not among the ensemble's: 'cow'"),
    ],
)
def test_classes_that_are_refused(save, arrays, problem):
    with pytest.raises(ConfigError) as error:
        classes(save(**arrays))
    assert problem in str(error.value)


def test_labels_for_an_ensemble_without(save):
    with pytest.raises(ConfigError, match="the ensemble has none: give whole numbers"):
        classes(save(y=["a", "b", "c"]), labels=())


@given(
    st.lists(st.integers(30, 60), min_size=2, max_size=5),
    st.floats(0.4, 0.6),
    st.integers(0, 9),
)
def test_each_class_gives_its_share(sizes, holdout, seed):
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    fitting, held = split_rows(y, holdout, seed)
    assert sorted([*fitting, *held]) == list(range(len(y)))
    assert abs(len(held) - holdout * len(y)) <= 1
    for number, size in enumerate(sizes):
        assert abs((y[held] == number).sum() - holdout * size) <= 1
    again = split_rows(y, holdout, seed)
    assert [one.tolist() for one in again] == [fitting.tolist(), held.tolist()]
    assert split_rows(y, holdout, seed + 1)[1].tolist() != held.tolist()


def test_too_few_rows_or_classes():
    y = np.arange(60) % 2
    with pytest.raises(ConfigError, match="6 of 60 rows are held out: give at least 20"):
        split_rows(y, 0.1, 0)
    with pytest.raises(ConfigError, match="19 of 38 rows are to fit on: give at least 20"):
        split_rows(y[:38], 0.5, 0)
    with pytest.raises(ConfigError, match="rows to fit on are all of class 0"):
        split_rows(np.zeros(60, np.int64), 0.5, 0)
