import json

import numpy as np
import pytest
from ensembled_client import RequestRejected, ServerFailure
from ensembled_client.tensors import Tensor, decode_answer, encode_request, tensors_for

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
    with pytest.raises(RequestRejected, match=r"not \['x'\]"):
        tensors_for(TWO, {"x": np.zeros((1, 2, 3))})


def test_images_as_bytes_and_files(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"jpeg")
    expected = Tensor("image", "BYTES", (1,), b"\x04\0\0\0jpeg")
    for x in (b"jpeg", bytearray(b"jpeg"), path, str(path), [path], {"image": b"jpeg"}):
        assert tensors_for(IMAGE, x) == [expected]
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


def test_a_request_on_the_wire():
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    body, length = encode_request(tensors_for(PIXELS, x), timeout=0.25, classes=3)
    assert json.loads(body[:length]) == {
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [1, 2, 3],
                "parameters": {"binary_data_size": 24},
            }
        ],
        "outputs": [{"name": "output", "parameters": {"binary_data": True, "classification": 3}}],
        "parameters": {"timeout": 250_000},
    }
    assert body[length:] == x.tobytes()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_timeouts_that_are_none(timeout):
    with pytest.raises(RequestRejected, match="timeout"):
        encode_request([], timeout=timeout)


def test_an_answer_may_be_json_or_raw():
    described = {"name": "output", "datatype": "FP32", "shape": [1, 2]}
    text = json.dumps({"outputs": [{**described, "data": [1, 2.5]}]}).encode()
    assert decode_answer(text, None).output.tolist() == [[1, 2.5]]
    described["parameters"] = {"binary_data_size": 8}
    text = json.dumps({"outputs": [described], "parameters": {"degraded": True}}).encode()
    answer = decode_answer(text + np.array([1, 2.5], "<f4").tobytes(), len(text))
    assert answer.output.tolist() == [[1, 2.5]]
    assert answer.parameters == {"degraded": True}


@pytest.mark.parametrize(
    ("document", "raw"),
    [
        ({"outputs": []}, b""),
        ({}, b""),
        ([], b""),
        ({"outputs": [{"name": "output", "datatype": "FP33", "shape": [1], "data": [1]}]}, b""),
        ({"outputs": [{"name": "output", "datatype": "FP32", "shape": [2], "data": [1]}]}, b""),
        (
            {
                "outputs": [
                    {
                        "name": "output",
                        "datatype": "BYTES",
                        "shape": [1],
                        "parameters": {"binary_data_size": 8},
                    }
                ]
            },
            b"\x09\0\0\0abcd",
        ),
    ],
)
def test_nonsense_is_a_failure_of_the_server(document, raw):
    text = json.dumps(document).encode()
    with pytest.raises(ServerFailure, match="can't be understood"):
        decode_answer(text + raw, len(text))
