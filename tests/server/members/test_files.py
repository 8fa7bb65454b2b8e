"""Files of a configuration that are fetched, or whose content is pinned."""

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from server.config import load_config
from server.errors import ConfigError, StartError
from server.members.files import local_files
from tests.support.certificates import Authority
from tests.support.file_server import file_server
from tests.support.networks import write_linear
from tests.support.tiny_transformers import make_text_model


@pytest.fixture(autouse=True)
def _surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def web(tmp_path, monkeypatch):
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    with file_server(authority) as server:
        write_linear(tmp_path / "net.onnx", np.eye(2))
        server.files["/net.onnx"] = (tmp_path / "net.onnx").read_bytes()
        server.files["/labels.txt"] = b"no\nyes\n"
        yield server


def write(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def check(config):
    command = [Path(sys.executable).with_name("ensembled"), "check", config]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_file_of_a_configuration_is_put_in_place(web, tmp_path):
    pin = f"{{url: '{web.url}/net.onnx', sha256: {sha256(tmp_path / 'net.onnx').upper()}}}"
    config = load_config(
        write(
            tmp_path,
            f"""
            ensembles:
              e: {{members: [a, b], rule: stack, meta: '{web.url}/net.onnx'}}
            members:
              a: {{model: {pin}, labels: '{web.url}/labels.txt?sig=hush', output: logits}}
              b: {{model: {{file: net.onnx, sha256: {sha256(tmp_path / "net.onnx")}}}}}
            """,
        )
    )
    assert "hush" not in repr(config)
    local = local_files(config)
    net = (tmp_path / "net.onnx").read_bytes()
    a, b = local.members.values()
    assert a.model.read_bytes() == local.ensembles["e"].meta.read_bytes() == net
    assert a.model.name == "net.onnx"
    assert a.labels.read_text() == "no\nyes\n"
    assert b.model == tmp_path / "net.onnx"
    assert local.directory == config.directory


def test_nothing_is_done_for_a_configuration_without_such_files(tmp_path):
    write_linear(tmp_path / "net.onnx", np.eye(2))
    config = load_config(write(tmp_path, "members: {a: {model: net.onnx}}"))
    assert local_files(config) is config


def test_what_is_not_served_is_not_fetched_nor_checked(web, tmp_path):
    wrong = f"{{file: net.onnx, sha256: {'a' * 64}}}"
    versions = f"{{1: '{web.url}/absent.onnx', 2: {wrong}, 3: '{web.url}/net.onnx'}}"
    model = f"{{versions: {versions}, policy: {{latest: 1}}}}"
    local = local_files(load_config(write(tmp_path, f"members: {{net: {{model: {model}}}}}")))
    assert local.members["net@3"].model.read_bytes() == web.files["/net.onnx"]


def test_a_local_file_with_another_content_than_the_pinned_one(tmp_path):
    write_linear(tmp_path / "net.onnx", np.eye(2))
    text = f"members: {{a: {{model: {{file: net.onnx, sha256: '{'0' * 64}'}}}}}}"
    config = load_config(write(tmp_path, text))
    with pytest.raises(ConfigError, match=r"^members.a.model: .*net.onnx: its content has the sha"):
        local_files(config)


def test_what_is_not_there_and_what_can_not_be_reached(web, tmp_path):
    config = load_config(
        write(tmp_path, f"members: {{a: {{model: '{web.url}/none.onnx?k=hush'}}}}")
    )
    with pytest.raises(ConfigError) as wrong:
        local_files(config)
    assert str(wrong.value) == (
        f"members.a.model: {web.url}/none.onnx?...: the server answered 404 Not Found"
    )
    web.refusals["/none.onnx"] = 503
    with pytest.raises(StartError, match="the server answered 503"):
        local_files(config)


def test_packages_that_are_missing_are_named(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "server.members.files.find_spec", lambda name: None if name == "s3fs" else find_spec(name)
    )
    config = load_config(write(tmp_path, "members: {a: {model: 's3://bucket/net.onnx'}}"))
    with pytest.raises(ConfigError, match=r"needs s3fs: pip install 'ensembled\[remote\]'"):
        local_files(config)


@pytest.mark.process
def test_the_command_line_fetches_checks_and_says_what_is_wrong(web, tmp_path):
    config = write(tmp_path, f"members: {{a: {{model: '{web.url}/net.onnx'}}}}")

    ended = check(config)
    assert (ended.returncode, ended.stdout.splitlines()[0]) == (0, "a: a -> FP32 [2]")
    del web.files["/net.onnx"]
    ended = check(config)
    line = f"error: members.a.model: {web.url}/net.onnx: the server answered 404 Not Found\n"
    assert (ended.returncode, ended.stderr) == (2, line)


@pytest.mark.process
def test_a_directory_of_a_hub_is_fetched_and_served_without_the_hub(tmp_path, monkeypatch):
    directory = make_text_model(tmp_path / "tiny")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    config = write(tmp_path, "members: {a: {model: {transformers: 'hf://org/tiny'}}}")
    with file_server() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        ended = check(config)
        wrong = "error: members.a.model.transformers: hf://org/tiny: there is no such directory"
        assert (ended.returncode, ended.stderr.startswith(wrong)) == (2, True)
        start = "/org/tiny/resolve/main/"
        hub.files = {start + one.name: one.read_bytes() for one in directory.iterdir()}
        hub.files[start + "pytorch_model.bin"] = b"a pickle"
        ended = check(config)
        assert (ended.returncode, ended.stdout.splitlines()[0]) == (0, "a: a -> FP32 [3]")
        assert not [path for _, path, _ in hub.asked if path.endswith(".bin")]
    ended = check(config)
    assert ended.returncode == 0
    assert "hf://org/tiny can't be asked for a newer version, the cached one is used" in (
        ended.stderr
    )
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path / "empty"))
    assert check(config).returncode == 1


def test_a_directory_of_mlflow_in_s3_is_fetched_whole(tmp_path, monkeypatch):
    with file_server() as s3:
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
        s3.files = {"/bucket/1/MLmodel": b"flavors: {}", "/bucket/1/data/model.keras": b"model"}
        config = load_config(
            write(tmp_path, "members: {a: {model: {mlflow: 's3://bucket/1'}, batch_size: 1}}")
        )
        directory = local_files(config).members["a"].model.mlflow
    assert directory.name == "1"
    assert (directory / "MLmodel").read_bytes() == b"flavors: {}"
    assert (directory / "data" / "model.keras").read_bytes() == b"model"
