"""How a configuration names files: paths, URLs, and pins of their content."""

import re
from pathlib import Path

import pytest

from server.config import load_config
from server.errors import ConfigError

HASH = "a" * 64


def load(tmp_path, model):
    (tmp_path / "a.onnx").touch()
    path = tmp_path / "config.yaml"
    path.write_text(f"members: {{a: {{model: {model}}}}}")
    return load_config(path)


@pytest.mark.parametrize(
    "location",
    [
        "https://host/a.onnx",
        "hf://org/repo/a.onnx",
        "hf://org/repo@v1/sub/a.onnx",
        "s3://bucket/a.onnx",
        f"{{url: 'https://host/a.onnx', sha256: {HASH}}}",
        f"{{url: 'http://host/a.onnx', sha256: {HASH.upper()}}}",
    ],
)
def test_a_location_stands_for_a_file_until_it_is_fetched(tmp_path, location):
    config = load(tmp_path, location)
    path = config.members["a"].model
    assert isinstance(path, Path)
    assert path.suffix == ".onnx"
    assert config.files[path].url in location
    assert config.files[path].sha256 in {"", HASH}
    config.model_dump()  # a reload compares it


def test_a_pinned_file_is_a_path(tmp_path):
    config = load(tmp_path, f"{{file: a.onnx, sha256: {HASH}}}")
    path = config.members["a"].model
    assert path == tmp_path / "a.onnx"
    assert config.files[path].sha256 == HASH
    assert not load(tmp_path, "a.onnx").files
    assert not load(tmp_path, "{file: a.onnx}").files


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("{file: b.onnx}", "there is no file"),
        ("{file: a.onnx, url: 'https://h/b'}", "needs file .a path. or url, and not both"),
        (f"{{sha256: {HASH}}}", "needs file .a path. or url, and not both"),
        ("{url: a.onnx}", "url should begin with https://"),
        ("{file: a.onnx, sha: x}", "sha: unknown key, did you mean 'sha256'"),
        ("{file: a.onnx, sha256: abc}", "sha256: should be 64 hexadecimal digits"),
        ("'http://h/a.onnx'", "anybody on the way can change what http:// gives"),
        ("'gs://h/a.onnx'", "should be a path, or begin with one of https://"),
        ("'s3://bucket'", "names no file, it should be like s3://BUCKET/KEY"),
        ("'hf://org/a.onnx'", "names no file, it should be like hf://ORG/REPO/FILE"),
        ("'https://host/'", "names no file"),
        ("'https://host/a?k=hush'", "cannot tell the format of 'a'"),
    ],
)
def test_a_location_that_is_wrong(tmp_path, model, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        load(tmp_path, model)
    assert "hush" not in str(caught.value)


def test_a_file_with_two_pins(tmp_path):
    path = tmp_path / "config.yaml"
    (tmp_path / "a.onnx").touch()
    entries = [f"  {x}: {{model: {{file: a.onnx, sha256: {x * 64}}}}}" for x in "ab"]
    path.write_text("\n".join(["members:", *entries]))
    with pytest.raises(ConfigError, match="is pinned to two hashes, of which one is wrong"):
        load_config(path)


@pytest.mark.parametrize(
    ("model", "url"),
    [
        ("{transformers: 'hf://org/repo'}", "hf://org/repo"),
        ("{transformers: 'hf://org/repo@v1/sub/'}", "hf://org/repo@v1/sub"),
        ("{transformers: {url: 's3://bucket/a'}}", "s3://bucket/a"),
        ("{mlflow: 's3://bucket/a/b'}", "s3://bucket/a/b"),
    ],
)
def test_a_directory_that_is_elsewhere(tmp_path, model, url):
    config = load(tmp_path, model)
    (source,) = config.files.values()
    assert source.url == url
    assert re.fullmatch(source.files, "model.safetensors")
    assert not re.fullmatch(source.files, "code.py") or "mlflow" in model
    config.model_dump()


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "model.pt", "modeling_x.py", "tf_model.h5", "onnx/config.json", ".json"],
)
def test_files_that_are_not_fetched_for_transformers(tmp_path, name):
    (source,) = load(tmp_path, "{transformers: 'hf://org/repo'}").files.values()
    assert not re.fullmatch(source.files, name)


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (
            f"{{transformers: {{url: 'hf://org/repo', sha256: {HASH}}}}}",
            "hf://org/repo: sha256 pins a single file; what pins a directory is its commit",
        ),
        (f"{{mlflow: {{file: ., sha256: {HASH}}}}}", "sha256 pins a single file"),
        ("{transformers: 'https://me:hush@h/a'}", "https:// can't list the files of a directory"),
        ("{mlflow: 'http://h/a'}", "http:// can't list the files of a directory"),
        ("{transformers: 'hf://org'}", "names no directory, it should be like hf://ORG/REPO"),
        ("{mlflow: 's3://bucket/'}", "names no directory, it should be like s3://BUCKET/PREFIX"),
        ("{mlflow: 'gs://bucket/a'}", "should be a path, or begin with one of https://"),
        ("{transformers: a.onnx}", "there is no directory"),
    ],
)
def test_a_directory_that_is_wrong(tmp_path, model, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        load(tmp_path, model)
    assert "hush" not in str(caught.value)
