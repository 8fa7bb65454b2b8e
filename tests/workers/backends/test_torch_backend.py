"""The PyTorch backend: exported programs and TorchScript, and that no pickle is ever run."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from tests.workers.model_files import CPU, Affine, export, quietly, torch_source
from workers import backends
from workers.backends import ModelError
from workers.runtime.spec import DeviceSpec, ModelSource, TensorSpec

X = np.arange(12, dtype=np.float32).reshape(3, 4)
DECLARED = (TensorSpec("x", "FP32", (4,)),)


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


class Two(torch.nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> object:
        if self.kind == "tuple":
            return x, -x
        return {"first": x, "second": -x}


def refusal(source: ModelSource) -> str:
    with pytest.raises(ModelError) as caught:
        backends.load(source, CPU)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"member m ({source.path}): ")
    return text


def save_script(path: Path, module: torch.nn.Module) -> Path:
    quietly(lambda: torch.jit.save(torch.jit.script(module), path))
    return path


def rewrite(path: Path, change: Callable[[str, bytes], bytes]) -> None:
    """Change the files inside an archive."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, change(name, data))


class Malicious:
    """Unpickling it creates a file."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> object:
        return Path.touch, (self.victim,)


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_exported_program(tmp_path: Path) -> None:
    path = export(tmp_path / "a.pt2", Affine())
    model = backends.load(torch_source(path), CPU)
    model.arm()
    assert model.signature.inputs == DECLARED
    assert model.signature.output == TensorSpec("output", "FP32", (4,))
    assert model.signature.parameter_bytes == path.stat().st_size
    for rows in (1, 2, 3):
        x = X[:rows]
        x.flags.writeable = False
        np.testing.assert_array_equal(model.predict([x])[0], 2 * x + 1)
    model.close()
    model.close()


def test_torchscript_needs_declared_inputs(tmp_path: Path) -> None:
    path = save_script(tmp_path / "a.ts", Affine())
    assert "declare them" in refusal(torch_source(path))
    model = backends.load(torch_source(path, declared=DECLARED), CPU)
    assert model.signature.inputs == DECLARED
    np.testing.assert_array_equal(model.predict([X])[0], 2 * X + 1)


@pytest.mark.parametrize(("kind", "name"), [("tuple", "1"), ("dict", "second")])
def test_chooses_the_named_output(tmp_path: Path, kind: str, name: str) -> None:
    path = export(tmp_path / "a.pt2", Two(kind))
    model = backends.load(torch_source(path, outputs=(name,)), CPU)
    assert model.signature.output.name == name
    np.testing.assert_array_equal(model.predict([X])[0], -X)
    assert "2 outputs, name the one to use by output_name" in refusal(torch_source(path))
    assert "no output 'none'" in refusal(torch_source(path, outputs=("none",)))


def test_chooses_a_field_of_a_named_tuple(tmp_path: Path) -> None:
    class Fields(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Pair:
            return Pair(x, -x)

    path = save_script(tmp_path / "a.pt", Fields())
    source = torch_source(path, declared=DECLARED, outputs=("second",))
    np.testing.assert_array_equal(backends.load(source, CPU).predict([X])[0], -X)


def test_refuses_fixed_batches_missing_and_damaged_files(tmp_path: Path) -> None:
    path = export(tmp_path / "a.pt2", Affine(), shape=(1, 4), dynamic=False)
    assert "fixed batch of 1" in refusal(torch_source(path))
    assert "does not exist" in refusal(torch_source(tmp_path / "none.pt2"))
    whole = path.read_bytes()
    for data in (b"", b"garbage" * 100, whole[: len(whole) // 2]):
        path.write_bytes(data)
        assert "not a PyTorch archive, or truncated" in refusal(torch_source(path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="would be loaded")
@pytest.mark.parametrize(
    ("virtual", "memory_bytes", "limits"),
    [(True, 2 << 30, [0.25]), (True, 9 << 30, [1.0]), (False, 2 << 30, [])],
)
def test_a_part_of_a_gpu_is_limited_to_its_budget(
    tmp_path: Path,
    virtual: bool,
    memory_bytes: int,
    limits: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Properties:
        total_memory = 8 << 30

    asked: list[tuple[float, torch.device]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *limit: asked.append(limit)
    )
    device = DeviceSpec("half", "some GPU", memory_bytes, uuid="GPU-a", virtual=virtual)
    with pytest.raises(ModelError, match="can't load it"):
        backends.load(torch_source(export(tmp_path / "a.pt2", Affine())), device)
    assert asked == [(limit, torch.device("cuda", 0)) for limit in limits]


def test_never_falls_back_from_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device = DeviceSpec("half", "some GPU", 1 << 30, uuid="GPU-a", virtual=True)
    with pytest.raises(ModelError, match="torch can't use half: it finds no CUDA device"):
        backends.load(torch_source(export(tmp_path / "a.pt2", Affine())), device)


def test_fails_like_a_runtime(tmp_path: Path) -> None:
    model = backends.load(torch_source(export(tmp_path / "a.pt2", Affine())), CPU)
    with pytest.raises(RuntimeError):
        model.predict([np.zeros((2, 5), np.float32)])


def test_refuses_checkpoints(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    new, old, bare = tmp_path / "new.pt", tmp_path / "old.pt", tmp_path / "bare.pt"
    torch.save({"w": Malicious(victim)}, new)
    torch.save({"w": Malicious(victim)}, old, _use_new_zipfile_serialization=False)
    bare.write_bytes(pickle.dumps(Malicious(victim)))
    for path in (new, old, bare):
        assert "a pickled checkpoint" in refusal(torch_source(path, declared=DECLARED))
    assert not victim.exists()


def test_the_malicious_pickle_would_work(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    torch.load(io.BytesIO(saved(Malicious(victim))), weights_only=False)
    assert victim.exists()


@pytest.mark.parametrize("part", ["weights", "constants", "opaque", "sample_inputs", "legacy"])
def test_runs_no_pickle_of_an_exported_program(tmp_path: Path, part: str) -> None:
    victim = tmp_path / "victim"
    payload = saved(Malicious(victim))
    path = export(tmp_path / "a.pt2", Affine())
    weights = "a/data/weights/model_weights_config.json"
    constants = "a/data/constants/model_constants_config.json"

    def change(name: str, data: bytes) -> bytes:
        if part == "weights" and name == weights:
            config = json.loads(data)
            config["config"]["factor"]["use_pickle"] = True
            return json.dumps(config).encode()
        if part == "constants" and name == constants:
            entry = {"path_name": "tensor_0", "is_param": False, "use_pickle": True}
            return json.dumps({"config": {"c": entry | {"tensor_meta": None}}}).encode()
        if part == "opaque" and name == constants:
            entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}
            return json.dumps({"config": {"c": entry | {"tensor_meta": None}}}).encode()
        evil = {"weights": "weight_0", "sample_inputs": "a/data/sample_inputs/model.pt"}
        return payload if name.endswith(evil.get(part, "nothing")) else data

    rewrite(path, change)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/data/constants/tensor_0", payload)
        archive.writestr("a/data/constants/opaque_obj_0", pickle.dumps(Malicious(victim)))
        if part == "legacy":
            archive.writestr("a/data/weights/model.pt", payload)
    refusal(torch_source(path))
    assert not victim.exists()


def test_refuses_operators_and_sizes_that_are_code(tmp_path: Path) -> None:
    def replacing(old: str, new: str) -> str:
        path = export(tmp_path / "a.pt2", Affine())
        rewrite(path, lambda name, data: data.replace(old.encode(), new.encode()))
        return refusal(torch_source(path))

    add = "torch.ops.aten.add.Tensor"
    for evil in ("torch.os.system", "torch.ops.load_library", "_operator.attrgetter"):
        assert f"calls '{evil}'" in replacing(add, evil)
    assert "is not a name" in replacing('"name": "x"', '"name": "x=print(1)"')
    for evil in ("open('victim')", "Symbol('x').name", "Max(eval, 1)", "S('__import__')"):
        assert "which is not arithmetic" in replacing("Symbol('", evil + "+Symbol('")


def test_refuses_compiled_and_ambiguous_archives(tmp_path: Path) -> None:
    compiled = export(tmp_path / "a.pt2", Affine())
    with zipfile.ZipFile(compiled, "a") as archive:
        archive.writestr("a/data/aotinductor/model/x.so", b"")
    assert "compiled code" in refusal(torch_source(compiled))
    ambiguous = export(tmp_path / "b.pt2", Affine())
    with zipfile.ZipFile(ambiguous, "a") as archive:
        archive.writestr("b/MODELS/model.json", b"{}")
    assert "ambiguous" in refusal(torch_source(ambiguous))
    other = tmp_path / "c.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("c/readme", b"")
    assert "neither an exported program nor TorchScript" in refusal(torch_source(other))


def test_bf16_goes_in_as_its_bits_and_comes_out_as_fp32(tmp_path: Path) -> None:
    path = export(tmp_path / "a.pt2", torch.nn.Sigmoid(), dtype=torch.bfloat16)
    model = backends.load(torch_source(path), CPU)
    assert model.signature.inputs[0].datatype == "BF16"
    assert model.signature.output.datatype == "FP32"
    x = torch.tensor([[1.0, -2.0, 0.0, 3.140625]], dtype=torch.bfloat16)
    bits = x.view(torch.uint16).numpy().copy()
    bits.flags.writeable = False
    np.testing.assert_array_equal(model.predict([bits])[0], torch.sigmoid(x).float().numpy())


def test_bf16_can_be_declared_for_torchscript(tmp_path: Path) -> None:
    path = save_script(tmp_path / "a.pt", torch.nn.ReLU())
    declared = (TensorSpec("x", "BF16", (2,)),)
    model = backends.load(torch_source(path, declared=declared), CPU)
    bits = np.array([[0x3F80, 0xC000]], np.uint16)
    np.testing.assert_array_equal(model.predict([bits])[0], [[1.0, 0.0]])


def test_the_error_that_torch_only_logs_is_the_reason(tmp_path: Path) -> None:
    path = export(tmp_path / "m.pt2", Affine())

    def age(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        program = json.loads(data)
        program["schema_version"]["major"] = 999
        return json.dumps(program).encode()

    rewrite(path, age)
    message = refusal(torch_source(path))
    assert "version SchemaVersion(major=999" in message
    assert "warnings above" not in message
