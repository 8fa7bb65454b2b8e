"""The ONNX backend: what it answers, and what it refuses."""

import importlib.metadata
import re
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tests.workers.model_files import (
    CPU,
    onnx_source,
    write_bf16_onnx,
    write_hashing_onnx,
    write_onnx,
    write_reshaping_onnx,
    write_text_onnx,
)
from workers import backends
from workers.backends import ModelError
from workers.runtime.spec import DeviceSpec, InputLimit, ModelSignature, ModelSource, TensorSpec


def refusal(source: ModelSource) -> str:
    with pytest.raises(ModelError) as caught:
        backends.load(source, CPU)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"member m ({source.path}): ")
    return text


def test_signature_and_answer(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "a.onnx", shape=("n", 2, 3), operator="Neg")
    model = backends.load(onnx_source(path), CPU)
    model.arm()
    assert model.signature == ModelSignature(
        (TensorSpec("x", "FP32", (2, 3)),), (TensorSpec("y", "FP32", (2, 3)),), path.stat().st_size
    )
    for rows in (1, 2, 7):
        x = np.arange(rows * 6, dtype=np.float32).reshape(rows, 2, 3)
        x.flags.writeable = False
        np.testing.assert_array_equal(model.predict([x])[0], -x)
    model.close()
    model.close()


def test_chooses_the_named_output(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "a.onnx", outputs=("a", "b"))
    assert backends.load(onnx_source(path, output_name="b"), CPU).signature.output.name == "b"
    assert "2 outputs, name the one to use by output_name: a, b" in refusal(onnx_source(path))
    assert "no output 'c'; it has: a, b" in refusal(onnx_source(path, output_name="c"))


def test_bf16_inputs_are_their_bits(tmp_path: Path) -> None:
    model = backends.load(onnx_source(write_bf16_onnx(tmp_path / "a.onnx")), CPU)
    assert [spec.datatype for spec in model.signature.inputs] == ["BF16", "FP32"]
    assert model.signature.output.datatype == "FP32"
    bits = np.array([[0x3F80, 0xC000, 0x0000, 0x4049]], np.uint16)
    bits.flags.writeable = False
    z = np.full((1, 4), 10, np.float32)
    np.testing.assert_array_equal(model.predict([bits, z])[0], [[9, 12, 10, 6.859375]])


def test_refuses_a_bf16_output(tmp_path: Path) -> None:
    path = write_bf16_onnx(tmp_path / "a.onnx", output=TensorProto.BFLOAT16)
    assert "output 'y' is BF16" in refusal(onnx_source(path))


def test_refuses_missing_and_damaged_files(tmp_path: Path) -> None:
    assert "does not exist" in refusal(onnx_source(tmp_path / "none.onnx"))
    path = write_onnx(tmp_path / "a.onnx")
    whole = path.read_bytes()
    for data in (b"", b"garbage" * 100, whole[: len(whole) // 2]):
        path.write_bytes(data)
        refusal(onnx_source(path))


def test_refuses_an_unsupported_opset(tmp_path: Path) -> None:
    """However long the path: the reason is the last that the runtime says."""
    directory = tmp_path / ("d" * 200) / ("e" * 200)
    directory.mkdir(parents=True)
    path = write_onnx(directory / "a.onnx", opset=999)
    assert re.search(
        r"support for domain ai\.onnx is till opset \d+\.$", refusal(onnx_source(path))
    )


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((1, 4), "input 'x' has a fixed batch of 1: export it with a dynamic first dimension"),
        (
            ("n", "length"),
            "dimension 1 of input 'x' is variable (length): give its largest size by "
            "members.m.inputs.x.max_shape",
        ),
        ((), "no batch dimension"),
    ],
)
def test_refuses_shapes(tmp_path: Path, shape: tuple[object, ...], reason: str) -> None:
    assert reason in refusal(onnx_source(write_onnx(tmp_path / "a.onnx", shape=shape)))


def test_refuses_texts_as_output(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "a.onnx", kind=TensorProto.STRING)
    assert "give the most bytes of a row by members.m.inputs.x.max_bytes" in refusal(
        onnx_source(path)
    )
    source = msgspec.structs.replace(onnx_source(path), limits=(InputLimit("x", max_bytes=16),))
    assert "output 'y' is text, which can't be combined: have the model give" in refusal(source)


@pytest.mark.parametrize("classes", [["no", "yes", "perhaps"], [7, 8, 9]])
def test_a_zipmap_is_probabilities_with_labels(tmp_path: Path, classes: list[object]) -> None:
    """As skl2onnx writes classifiers: the best class, and a mapping from class to probability."""
    kind, name = (
        (TensorProto.STRING, "classlabels_strings")
        if isinstance(classes[0], str)
        else (TensorProto.INT64, "classlabels_int64s")
    )
    per_row = helper.make_map_type_proto(kind, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    ends = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]),
        helper.make_value_info("scores", helper.make_sequence_type_proto(per_row)),
    ]
    graph = helper.make_graph(
        [
            helper.make_node("ArgMax", ["x"], ["label"], axis=1, keepdims=0),
            helper.make_node("ZipMap", ["x"], ["scores"], domain="ai.onnx.ml", **{name: classes}),
        ],
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        ends,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), tmp_path / "a.onnx")
    model = backends.load(onnx_source(tmp_path / "a.onnx"), CPU)
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    (scores,) = model.predict([rows])
    labels = model.signature.labels["scores"]
    order = [classes.index(type(classes[0])(label)) for label in labels]
    np.testing.assert_array_equal(scores, rows[:, order])
    assert scores.dtype == np.float32
    assert model.signature.kinds == {"scores": "probabilities"}
    model.close()


def test_takes_texts(tmp_path: Path) -> None:
    path = write_hashing_onnx(tmp_path / "a.onnx")
    limits = (InputLimit("x", max_bytes=16),)
    model = backends.load(msgspec.structs.replace(onnx_source(path), limits=limits), CPU)
    (text,) = model.signature.inputs
    assert (text.datatype, text.shape, text.max_bytes) == ("BYTES", (2,), 16 + 2 * 4)
    rows = np.array([[b"yes", "é".encode()], [b"", b"yes"]], object)
    assert model.predict([rows])[0].tolist() == [[1.0, 0.0], [0.0, 1.0]]
    with pytest.raises(RuntimeError, match="not UTF-8"):
        model.predict([np.array([[b"\xff", b""]], object)])


def test_finds_which_outputs_follow_the_length(tmp_path: Path) -> None:
    path = write_text_onnx(tmp_path / "a.onnx", outputs=("logits", "tokens"))
    limits = (InputLimit("input_ids", (64,)),)
    tokens = msgspec.structs.replace(onnx_source(path, output_name="tokens"), limits=limits)
    signature = backends.load(tokens, CPU).signature
    assert [one.max_shape for one in signature.inputs] == [(64,), (64,)]
    assert [one.symbols for one in signature.inputs] == [("seq",), ("seq",)]
    output = signature.output
    assert (output.shape, output.max_shape, output.symbols) == ((-1, 3), (64, 3), ("seq", ""))
    logits = msgspec.structs.replace(onnx_source(path, output_name="logits"), limits=limits)
    assert backends.load(logits, CPU).signature.output == TensorSpec("logits", "FP32", (3,))


def test_refuses_outputs_without_a_row_per_row(tmp_path: Path) -> None:
    path = write_reshaping_onnx(tmp_path / "a.onnx", (1, -1))
    assert "output 'y' has shape [1, 8] for a batch of 2 rows" in refusal(onnx_source(path))
    path = write_reshaping_onnx(tmp_path / "b.onnx", (1, 4))
    assert "fails on a batch of 2 rows of zeros" in refusal(onnx_source(path))


def test_refuses_nan(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "a.onnx", operator="Acosh")
    assert "output 'y' is NaN for an input of zeros" in refusal(onnx_source(path))


def test_never_falls_back_from_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_onnx(tmp_path / "a.onnx")
    real = onnxruntime.InferenceSession

    def silent(path: str, options: object, providers: list[object]) -> object:
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", silent)
    with pytest.raises(ModelError, match="can't use cuda:0"):
        backends.load(onnx_source(path), DeviceSpec("cuda:0", "some GPU", 1 << 30))


@pytest.mark.parametrize(
    ("device", "options"),
    [
        (DeviceSpec("cuda:3", "some GPU", 1 << 30), {"device_id": 3}),
        (DeviceSpec("cuda:3", "some GPU", 1 << 30, uuid="GPU-a"), {"device_id": 0}),
        (
            DeviceSpec("half", "some GPU", 1 << 30, uuid="GPU-a", virtual=True),
            {"device_id": 0, "gpu_mem_limit": 1 << 30},
        ),
    ],
)
def test_a_gpu_and_the_limit_of_a_part_of_one(
    tmp_path: Path,
    device: DeviceSpec,
    options: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []

    def note(path: str, options: object, providers: list[object]) -> object:
        asked.extend(providers)
        raise RuntimeError("enough")

    monkeypatch.setattr(onnxruntime, "InferenceSession", note)
    with pytest.raises(ModelError, match="enough"):
        backends.load(onnx_source(write_onnx(tmp_path / "a.onnx")), device)
    assert asked == [("CUDAExecutionProvider", options), "CPUExecutionProvider"]


def test_refuses_both_runtimes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_onnx(tmp_path / "a.onnx")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1")
    assert "both installed" in refusal(onnx_source(path))


@pytest.mark.parametrize(
    ("said", "expected"),
    [("Failed to allocate memory for requested buffer", MemoryError), ("boom", RuntimeError)],
)
def test_errors_while_predicting(
    tmp_path: Path, said: str, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Session:
        def run(self, *_: object) -> None:
            raise RuntimeError(f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : {said}\n at x")

    model = backends.load(onnx_source(write_onnx(tmp_path / "a.onnx")), CPU)
    monkeypatch.setattr(model, "_session", Session())
    with pytest.raises(expected, match=f"^{said} at x$"):
        model.predict([np.zeros((1, 4), np.float32)])
