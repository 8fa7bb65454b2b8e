"""Inspection: findings, all errors at once, children that die, and the cache."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest

from tests.workers.model_files import onnx_source, write_onnx, write_reshaping_onnx
from workers.backends import inspection
from workers.backends.inspection import Inspected, InspectionError, inspect_models
from workers.runtime import cache
from workers.runtime.spec import FakeOptions, ModelSource, TensorSpec

FAKE = ModelSource("f", "fake", fake=FakeOptions({"x": (3,)}, 2, fail="exit"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "cache"
    monkeypatch.setenv("ENSEMBLED_CACHE", str(directory))
    return directory


def forbid_children(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a child process was started")

    monkeypatch.setattr(subprocess, "Popen", forbidden)


def replace_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    program = tmp_path / "child"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))


def test_finds_signatures_in_order(tmp_path: Path) -> None:
    a = onnx_source(write_onnx(tmp_path / "a.onnx"))
    b = onnx_source(write_onnx(tmp_path / "b.onnx", shape=("n", 5)))
    first, second, third = inspect_models([b, FAKE, a])
    assert first.inputs == (TensorSpec("x", "FP32", (5,)),)
    assert second.output == TensorSpec("output", "FP32", (2,))
    assert third.output == TensorSpec("y", "FP32", (4,))


def test_reports_all_errors_at_once(tmp_path: Path) -> None:
    whole = write_onnx(tmp_path / "whole.onnx")
    truncated, corrupt = tmp_path / "truncated.onnx", tmp_path / "corrupt.onnx"
    truncated.write_bytes(whole.read_bytes()[:-20])
    corrupt.write_bytes(b"no model")
    expected = {
        tmp_path / "missing.onnx": "does not exist",
        truncated: "",
        corrupt: "",
        write_onnx(tmp_path / "fixed.onnx", shape=(1, 4)): "fixed batch of 1",
        write_onnx(tmp_path / "dynamic.onnx", shape=("n", "m")): "dimension 1 of input 'x'",
        write_onnx(tmp_path / "two.onnx", outputs=("a", "b")): "2 outputs",
        write_onnx(tmp_path / "opset.onnx", opset=999): "opset",
        write_reshaping_onnx(tmp_path / "mixes.onnx", (8,)): "its first dimension must be 2",
    }
    sources = [msgspec.structs.replace(onnx_source(path), member=path.stem) for path in expected]
    with pytest.raises(InspectionError) as caught:
        inspect_models([FAKE, *sources, onnx_source(whole)])
    messages = caught.value.messages
    assert str(caught.value) == "\n".join(messages)
    for message, (path, reason) in zip(messages, expected.items(), strict=True):
        assert message.startswith(f"member {path.stem} ({path}): ")
        assert reason in message
        assert "\n" not in message


def test_asks_no_child_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_onnx(tmp_path / "a.onnx")
    found = inspect_models([onnx_source(path)])
    with monkeypatch.context() as patch:
        forbid_children(patch)
        assert inspect_models([onnx_source(path)]) == found
        os.utime(path, ns=(1, 1))
        with pytest.raises(AssertionError):
            inspect_models([onnx_source(path)])
    write_onnx(path, shape=("n", 6))
    assert inspect_models([onnx_source(path)])[0].inputs[0].shape == (6,)


def test_needs_no_child_for_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_children(monkeypatch)
    assert len(inspect_models([FAKE, FAKE])) == 2
    bad = ModelSource("bad", "fake")
    with pytest.raises(InspectionError, match=r"^member bad: "):
        inspect_models([bad])


@pytest.mark.parametrize(
    ("script", "timeout_s", "reason"),
    [
        ("kill -SEGV $$", 60, "died of SIGSEGV"),
        ("echo first >&2; echo last words >&2; exit 3", 60, "exited 3: last words"),
        ("exit 0", 60, "exited 0: no message"),
        ("exec sleep 60", 0.3, "the process that loaded it took more than 0.3 s"),
    ],
)
def test_survives_its_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, timeout_s: float, reason: str
) -> None:
    source = onnx_source(write_onnx(tmp_path / "a.onnx"))
    replace_child(monkeypatch, tmp_path, script)
    with pytest.raises(InspectionError) as caught:
        inspect_models([source], timeout_s=timeout_s)
    (message,) = caught.value.messages
    assert message.startswith(f"member m ({source.path}): ")
    assert reason in message


def test_works_without_a_cache(tmp_path: Path, own_cache: Path) -> None:
    own_cache.write_text("a file where the directory should be")
    assert inspect_models([onnx_source(write_onnx(tmp_path / "a.onnx"))])


def test_what_a_runtime_prints_is_no_answer() -> None:
    code = (
        "import os, sys, workers.backends.inspection as inspection\n"
        "real = inspection._inspect\n"
        "def noisy(source):\n"
        "    print('noise', flush=True)\n"
        "    os.write(1, b'more noise')\n"
        "    return real(source)\n"
        "inspection._inspect = noisy\n"
        "inspection.main()\n"
    )
    data = msgspec.json.encode(FAKE)
    with tempfile.TemporaryFile() as answer:
        fd = answer.fileno()
        child = subprocess.run(
            [sys.executable, "-c", code, str(fd)],
            input=data, capture_output=True, check=True, pass_fds=(fd,),
        )  # fmt: skip
        answer.seek(0)
        finding = msgspec.json.decode(answer.read(), type=inspection.Finding)
    assert isinstance(finding, Inspected)
    assert child.stdout == b"noise\nmore noise"


def test_cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENSEMBLED_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    directory = cache.cache_dir()
    assert directory == tmp_path / "xdg" / "ensembled"
    assert directory.stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_dir() == tmp_path / ".cache" / "ensembled"


def test_writes_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    cache.write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="No space"):
            cache.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]
    cache.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
