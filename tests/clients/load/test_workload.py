"""Random inputs and inputs from files, and the requests encoded of them."""

import io
import itertools
import json

import numpy as np
import pytest
from ensembled_client.load.grpc_connection import GrpcResponseChecker, call_metadata
from ensembled_client.load.options import LoadTarget, LoadTestError, UsageError
from ensembled_client.load.workload import (
    InputSpec,
    Workload,
    encode_grpc_request,
    encode_http_request,
    encode_png,
    file_inputs,
    input_specs,
    make_workload,
    random_image,
    random_inputs,
)
from ensembled_client.wire import DTYPES
from ensembled_client.wire.messages import message_class
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from server.http_api.protocol import parse_request

HTTP = LoadTarget.of("http://host:80/prefix", "a b", "binary")
JSON = LoadTarget.of("http://host:80", "m", "json")
GRPC = LoadTarget.of("grpc://host:80", "m", None)
SIZE = (8, 6)

SPECS = st.lists(
    st.tuples(
        st.sampled_from([*sorted(DTYPES.keys() - {"BF16"}), "BYTES"]),
        st.lists(st.integers(1, 4), max_size=3),
    ),
    min_size=1,
    max_size=3,
).map(lambda all_: [InputSpec(f"x{i}", kind, tuple(shape)) for i, (kind, shape) in enumerate(all_)])


def split(request):
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return first, dict(line.split(": ", 1) for line in lines), body


def values(tensor):
    return tensor.array if tensor.array is not None else [bytes(one) for one in tensor.elements]


def test_an_api_key_comes_from_the_environment(monkeypatch):
    specs = [InputSpec("x", "FP32", (2,))]
    inputs = next(random_inputs(specs, 1, 0, SIZE))
    assert "Authorization" not in split(encode_http_request(HTTP, inputs, {}))[1]
    assert call_metadata() == ()
    monkeypatch.setenv("ENSEMBLED_API_KEY", "ensembled_me")
    for target in (HTTP, JSON):
        _, headers, body = split(encode_http_request(target, inputs, {}))
        assert headers["Authorization"] == "Bearer ensembled_me"
        assert int(headers["Content-Length"]) == len(body)
    assert call_metadata() == (("authorization", "Bearer ensembled_me"),)
    monkeypatch.setenv("ENSEMBLED_API_KEY", "two\r\nlines")
    with pytest.raises(UsageError, match="ENSEMBLED_API_KEY: the API key has characters"):
        encode_http_request(HTTP, inputs, {})


@given(SPECS, st.integers(1, 5), st.integers(0, 99), st.sampled_from([HTTP, JSON]))
def test_the_server_reads_what_was_made(specs, rows, seed, target):
    inputs = next(random_inputs(specs, rows, seed, SIZE))
    request = encode_http_request(target, inputs, {"timeout": 250_000, "members": "a,b"})
    _, headers, body = split(request)
    assert int(headers["Content-Length"]) == len(body)
    length = headers.get("Inference-Header-Content-Length")
    parsed = parse_request(body, None if length is None else int(length))
    assert [tensor.name for tensor in parsed.tensors] == [spec.name for spec in specs]
    for spec, tensor in zip(specs, parsed.tensors, strict=True):
        assert (tensor.datatype, list(tensor.shape)) == (spec.datatype, [rows, *spec.shape])
        expected = inputs[spec.name]
        if spec.datatype == "BYTES":
            assert values(tensor) == expected.ravel().tolist()
        else:
            assert (values(tensor) == expected).all()
    assert json.loads(body[: int(length)] if length else body)["parameters"] == {
        "timeout": 250_000,
        "members": "a,b",
        **({"binary_data_output": True} if length else {}),
    }


@given(SPECS, st.integers(1, 5))
def test_grpc_messages_hold_the_same_bytes(specs, rows):
    inputs = next(random_inputs(specs, rows, 1, SIZE))
    made = encode_grpc_request(GRPC, inputs, {"timeout": 1_000_000, "members": "a"})
    message = message_class("ModelInferRequest").FromString(made)
    assert message.model_name == "m"
    assert message.parameters["timeout"].int64_param == 1_000_000
    assert message.parameters["members"].string_param == "a"
    for spec, one, raw in zip(specs, message.inputs, message.raw_input_contents, strict=True):
        assert (one.name, one.datatype) == (spec.name, spec.datatype)
        assert list(one.shape) == [rows, *spec.shape]
        if spec.datatype != "BYTES":
            assert raw == inputs[spec.name].tobytes()


def test_requests_repeat_with_the_seed_and_differ_in_rotation():
    specs = [InputSpec("x", "FP32", (4,))]

    def workload(seed):
        inputs = {2: random_inputs(specs, 2, seed, SIZE)}
        return make_workload(HTTP, specs, inputs, {}, rows=2, payloads=5)

    assert workload(1) == workload(1) != workload(2)
    assert len(set(workload(1).requests[2])) == 5
    path, headers, _ = split(workload(1).requests[2][0])
    assert path == "POST /prefix/v2/models/a%20b/infer HTTP/1.1"
    assert headers["Host"] == "host:80"


@pytest.mark.slow
def test_few_requests_are_made_when_they_are_large():
    specs = [InputSpec("x", "FP32", (3 << 20,))]
    inputs = {1: random_inputs(specs, 1, 0, SIZE), 9: random_inputs(specs, 9, 0, SIZE)}
    made = make_workload(HTTP, specs, inputs, {}, rows=1, payloads=50).requests
    assert (len(made[1]), len(made[9])) == (2, 1)


def test_a_rotation_goes_round_for_each_number_of_rows():
    cycles = Workload(1, {1: (b"a", b"b"), 2: (b"c",)}).cycles(start=3)
    assert [next(cycles[rows]) for rows in (1, 2, 1, 1, 2)] == [b"b", b"c", b"a", b"b", b"c"]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 9))
def test_pictures_are_real_ones(width, height, seed):
    picture = random_image(np.random.default_rng(seed), width, height)
    with Image.open(io.BytesIO(encode_png(picture))) as decoded:
        assert (decoded.format, decoded.mode, decoded.size) == ("PNG", "RGB", (width, height))
        assert (np.asarray(decoded) == picture).all()


IMAGE = input_specs({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}]}, {})


def test_images_are_made_up_or_read_but_never_json(tmp_path):
    made = next(random_inputs(IMAGE, 2, 0, SIZE))["image"]
    with Image.open(io.BytesIO(made[1])) as decoded:
        assert decoded.size == SIZE
    paths = [tmp_path / name for name in ("a.jpg", "b.png", "c.jpg")]
    for path in paths:
        path.write_bytes(path.name.encode())
    read = [one["image"].tolist() for one in itertools.islice(file_inputs(IMAGE, 2, paths), 3)]
    assert read == [[b"a.jpg", b"b.png"], [b"c.jpg", b"a.jpg"], [b"b.png", b"c.jpg"]]
    with pytest.raises(UsageError, match="images can't be JSON"):
        make_workload(JSON, IMAGE, {1: [{"image": made}]}, {}, rows=1, payloads=1)


def test_images_and_arrays_for_a_model_that_takes_both(tmp_path):
    specs = [InputSpec("t", "FP32", (2,)), *IMAGE]
    photo, table = tmp_path / "a.jpg", tmp_path / "t.npz"
    photo.write_bytes(b"a.jpg")
    np.savez(table, t=np.ones((3, 2)))
    read = next(file_inputs(specs, 2, [photo, table]))
    assert read["image"].tolist() == [b"a.jpg"] * 2, "as long as the shorter, round and round"
    assert read["t"].tolist() == [[1, 1]] * 2
    made = next(random_inputs(specs, 2, 0, SIZE))
    assert list(made) == ["t", "image"]
    with pytest.raises(LoadTestError, match=r"takes t as well: give an \.npz file"):
        next(file_inputs(specs, 1, [photo]))
    with pytest.raises(UsageError, match="one .npy or .npz"):
        next(file_inputs(IMAGE, 1, [photo, table]))


TWO = [InputSpec("a", "FP32", (2,)), InputSpec("b", "INT64", ())]


def test_arrays_from_files(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6).reshape(3, 2))
    taken = file_inputs(TWO[:1], 2, [tmp_path / "x.npy"])
    assert [next(taken)["a"].tolist() for _ in range(2)] == [[[0, 1], [2, 3]], [[4, 5], [0, 1]]]
    np.save(tmp_path / "one.npy", np.arange(2))
    assert next(file_inputs(TWO[:1], 2, [tmp_path / "one.npy"]))["a"].tolist() == [[0, 1], [0, 1]]
    np.savez(tmp_path / "x.npz", a=np.ones((2, 2)), b=np.array([7, 8]))
    both = next(file_inputs(TWO, 1, [tmp_path / "x.npz"]))
    assert (both["a"].dtype, both["b"].dtype) == (np.float32, np.int64)
    text = [InputSpec("t", "BYTES", ())]
    np.save(tmp_path / "t.npy", np.array(["a", "bc"]))
    assert next(file_inputs(text, 2, [tmp_path / "t.npy"]))["t"].tolist() == [b"a", b"bc"]


def test_files_that_do_not_fit_are_an_error_of_one_line(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((3, 5)))
    np.save(tmp_path / "text.npy", np.array(["a"]))
    np.save(tmp_path / "none.npy", np.ones((0, 2)))
    np.savez(tmp_path / "x.npz", a=np.ones((2, 2)))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and nothing more")
    (tmp_path / "broken.npy").write_bytes(b"nothing")

    def complaint(inputs, *names, error=LoadTestError):
        with pytest.raises(error) as caught:
            next(file_inputs(inputs, 1, [tmp_path / name for name in names]))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "should be [n, 2], not [3, 5]" in complaint(TWO[:1], "x.npy")
    assert "is FP32, not <U1" in complaint(TWO[:1], "text.npy")
    assert "should be [n, 2], not [0, 2]" in complaint(TWO[:1], "none.npy")
    assert "several inputs, a, b: use .npz" in complaint(TWO, "x.npy")
    assert "has no array 'b', but a" in complaint(TWO, "x.npz")
    assert "No such file" in complaint(TWO, "missing.npz")
    assert "No such file" in complaint(IMAGE, "missing.jpg")
    assert "can't be read" in complaint(TWO, "broken.npz")
    assert "can't be read" in complaint(TWO, "broken.npy")
    assert "does not take images" in complaint(TWO, "x.jpg")
    assert "one .npy or .npz" in complaint(TWO, "x.npy", "x.npz", error=UsageError)


def test_open_dimensions_of_a_request_have_one_random_length():
    described = [
        {"name": "ids", "datatype": "INT64", "shape": [-1, -1]},
        {"name": "mel", "datatype": "FP32", "shape": [-1, 2, -1]},
    ]
    specs = input_specs({"inputs": described}, {}, may_vary=True)
    requests = [
        one for one, _ in zip(random_inputs(specs, 3, 0, (1, 1), (4, 64)), range(50), strict=False)
    ]
    lengths = [one["ids"].shape[1] for one in requests]
    assert {one["ids"].shape[0] for one in requests} == {3}
    assert [one["mel"].shape for one in requests] == [(3, 2, length) for length in lengths]
    assert 4 <= min(lengths) < 10
    assert 30 < max(lengths) <= 64
    assert 12 < np.median(lengths) < 21


def test_open_dimensions_need_a_shape():
    metadata = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3, -1]}]}
    with pytest.raises(LoadTestError, match="say --shape x:3,N"):
        input_specs(metadata, {})
    assert input_specs(metadata, {"x": (3, 7)}) == [InputSpec("x", "FP32", (3, 7))]
    for wrong in ({"x": (4, 7)}, {"x": (3,)}, {"y": (3, 7)}):
        with pytest.raises(UsageError, match="--shape"):
            input_specs(metadata, wrong)
    with pytest.raises(LoadTestError, match="BF16"):
        input_specs({"inputs": [{"name": "x", "datatype": "BF16", "shape": [-1]}]}, {})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_json_has_no_nan(value):
    inputs = {"a": np.array([[1, value]], np.float32)}
    with pytest.raises(LoadTestError, match="NaN or infinity"):
        encode_http_request(JSON, inputs, {})


def grpc_answer(rows=1, degraded=None, raw=b"x" * 8):
    message = message_class("ModelInferResponse")(model_name="m")
    message.outputs.add(name="output", datatype="FP32", shape=[rows, 2])
    message.raw_output_contents.append(raw)
    message.parameters["members"].string_param = "a,b"
    if degraded is not None:
        message.parameters["degraded"].bool_param = degraded
    return message.SerializeToString()


def test_grpc_answers_are_judged():
    judge = GrpcResponseChecker()
    for degraded in (False, True, None):
        assert judge.check(grpc_answer(degraded=degraded), 1) == (None, degraded is True)
    assert judge.check(b"", 1).error == "wrong response: it is empty"
    for wrong in (grpc_answer(rows=2), grpc_answer(raw=b"x"), b"\xff\xff", b""):
        assert GrpcResponseChecker().check(wrong, 1).error.startswith("wrong response: ")
