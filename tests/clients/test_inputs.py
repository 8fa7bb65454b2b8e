import io

import numpy as np
import pytest
from ensembled_client import RequestRejected
from ensembled_client.inputs import tensors_for
from ensembled_client.requests import RequestTensor
from ensembled_client.wire import split_elements
from PIL import Image

PIXELS = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2, 3]}]}
IDS = {"inputs": [{"name": "ids", "datatype": "UINT8", "shape": [-1, 3]}]}
TWO = {"inputs": [*PIXELS["inputs"], *IDS["inputs"]]}
IMAGE = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}]}


def only(tensors):
    (tensor,) = tensors
    return tensor


def array_of(tensor, dtype):
    return np.frombuffer(tensor.data, dtype).reshape(tensor.shape)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "f8", "i8", "u1", "?"])
def test_numbers_become_the_models_type(dtype):
    x = np.arange(12).reshape(2, 2, 3).astype(dtype)
    tensor = only(tensors_for(PIXELS, x))
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", "FP32", (2, 2, 3))
    assert (array_of(tensor, "<f4") == x).all()


def test_strided_arrays_and_lists():
    x = np.arange(24.0).reshape(2, 3, 4)[:, :, ::2].transpose(0, 2, 1)
    assert (array_of(only(tensors_for(PIXELS, x)), "<f4") == x).all()
    assert (array_of(only(tensors_for(PIXELS, x.tolist())), "<f4") == x).all()


def test_a_row_alone_gets_a_batch_dimension():
    assert only(tensors_for(PIXELS, np.zeros((2, 3)))).shape == (1, 2, 3)


def test_whole_numbers_fit_whole_numbers_only_if_nothing_changes():
    assert (array_of(only(tensors_for(IDS, [[1, 2, 255]])), "u1") == [[1, 2, 255]]).all()
    for x in ([[1, 2, 256]], [[1, 2, -1]], [[0.5, 1, 2]], [[np.nan, 1, 2]]):
        with pytest.raises(RequestRejected, match="'ids' is not UINT8"):
            tensors_for(IDS, x)


@pytest.mark.parametrize(
    "x", [np.zeros((1, 3, 2)), np.zeros(3), 0.0, [[1.0], [2.0, 3.0]], [["a"]], None]
)
def test_what_does_not_fit_is_refused(x):
    with pytest.raises(RequestRejected, match="'x'"):
        tensors_for(PIXELS, x)


def test_several_inputs_come_by_name():
    tensors = tensors_for(TWO, {"ids": [[1, 2, 3]], "x": np.zeros((1, 2, 3))})
    assert {tensor.name: tensor.shape for tensor in tensors} == {"ids": (1, 3), "x": (1, 2, 3)}
    with pytest.raises(RequestRejected, match="give a mapping"):
        tensors_for(TWO, np.zeros((1, 2, 3)))
    with pytest.raises(RequestRejected, match=r"not \['y'\]"):
        tensors_for(TWO, {"y": np.zeros((1, 2, 3))})


def test_some_inputs_may_do():
    tensor = only(tensors_for(TWO, {"ids": [[1, 2, 3]]}))
    assert tensor.name == "ids"
    for x in ({}, {"y": [[1]]}, {"ids": [[1, 2, 3]], "y": [[1]]}):
        with pytest.raises(RequestRejected, match="the model takes the inputs"):
            tensors_for(TWO, x)


def test_images_as_bytes_and_files(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"jpeg")
    expected = RequestTensor("image", "BYTES", (1,), b"\x04\0\0\0jpeg", (8,))
    for x in (b"jpeg", bytearray(b"jpeg"), path, str(path), [path], {"image": b"jpeg"}):
        assert tensors_for(IMAGE, x) == (expected,)
    two = only(tensors_for(IMAGE, [path, b"png"]))
    assert (two.shape, two.data) == ((2,), b"\x04\0\0\0jpeg\x03\0\0\0png")


def test_images_as_pixels():
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    for x, shape in (
        (pixels, (2, 4, 5, 3)),
        (list(pixels), (2, 4, 5, 3)),
        (pixels[0], (1, 4, 5, 3)),
    ):
        tensor = only(tensors_for(IMAGE, x))
        assert (tensor.datatype, tensor.shape) == ("UINT8", shape)
        assert (array_of(tensor, "u1") == pixels[: shape[0]]).all()


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((4, 5, 3)),
        np.zeros((4, 5), np.uint8),
        [np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)],
        [b"jpeg", np.zeros((4, 5, 3), np.uint8)],
        [],
        7,
    ],
)
def test_what_is_no_image_is_refused(x):
    with pytest.raises(RequestRejected, match="image"):
        tensors_for(IMAGE, x)


def test_pillow_images_become_pixels():
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    one = only(tensors_for(IMAGE, image))
    assert (one.datatype, one.shape, bytes(one.data)) == ("UINT8", (1, 2, 4, 3), bytes(range(24)))
    assert only(tensors_for(IMAGE, [image, image])).shape == (2, 2, 4, 3)
    assert only(tensors_for(IMAGE, image.convert("L"))).shape == (1, 2, 4, 3)


def test_pillow_images_of_different_sizes_are_encoded_without_loss():
    images = [Image.new("RGB", (3, 2), "red"), Image.new("RGB", (2, 3), "blue")]
    tensor = only(tensors_for(IMAGE, images))
    assert (tensor.datatype, tensor.shape) == ("BYTES", (2,))
    for element, image in zip(split_elements(tensor.data), images, strict=True):
        assert np.array_equal(Image.open(io.BytesIO(element)), image)
    assert only(tensors_for(IMAGE, [b"jpeg", images[0]])).shape == (2,)


def test_texts():
    described = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1, 2]}]}
    tensor = only(tensors_for(described, [["a", "bc"], [b"d", "\u00e9"]]))
    assert (tensor.shape, tensor.row_ends) == ((2, 2), (11, 22))
    assert split_elements(tensor.data) == [b"a", b"bc", b"d", "\u00e9".encode()]
    with pytest.raises(RequestRejected, match="texts or bytes"):
        tensors_for(described, [["a", 1]])


def test_rows_of_a_tensor():
    tensor = only(tensors_for(PIXELS, np.arange(24.0).reshape(4, 2, 3)))
    assert [tensor.end_of(row) for row in range(-1, 4)] == [0, 24, 48, 72, 96]
    middle = tensor.rows(1, 3)
    assert middle.shape == (2, 2, 3)
    assert (array_of(middle, "<f4").ravel() == np.arange(6, 18)).all()


def test_rows_of_images():
    tensor = only(tensors_for(IMAGE, [b"a", b"bcd", b"", b"ef"]))
    assert tensor.row_ends == (5, 12, 16, 22)
    last = tensor.rows(1, 4).rows(1, 3)
    assert (last.shape, last.row_ends, split_elements(last.data)) == ((2,), (4, 10), [b"", b"ef"])
