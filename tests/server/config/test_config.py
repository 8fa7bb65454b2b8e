from pathlib import Path

import msgspec
import pytest
from pydantic import ValidationError

import server.config
from server.config import FakeConfig, RecipeConfig, backend_for, load_config, override_server
from server.errors import ConfigError
from workers.runtime.spec import FakeOptions, Preparation

FULL = """
ensembles:
  imagenet: {members: [lite0, lite1, slow], rule: mean, quorum: 2, deadline_ms: 2000}
  weighted: {members: [lite0, slow], rule: weighted_mean, weights: {slow: 1, lite0: 3}}
members:
  lite0:
    model: models/lite0.onnx
    input: {image: {size: 224, mean: 127, std: [1, 2, 3]}}
    output: logits
    labels: labels.txt
  lite1:
    model: {recipe: efficientnet_lite1}
    inputs: {pixels: image}
  slow:
    model: fake
    fake: {inputs: {x: [784]}, outputs: 10, sleep_ms: 3, fail: none}
devices:
  - {name: "cuda:0"}
  - {name: "cpu:0", cores: [0, 1], memory_bytes: 4GiB}
server: {max_request_bytes: 32MiB, log_level: INFO}
"""

MINIMAL = "members: {a: {model: fake, fake: {inputs: {x: [4]}, outputs: 2}}}\n"


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def full(write, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/lite0.onnx").touch()
    (tmp_path / "labels.txt").touch()
    return load_config(write(FULL))


def test_a_full_configuration(full, tmp_path):
    assert full.directory == tmp_path
    assert full.ensembles["imagenet"].required_members == 2
    assert full.ensembles["weighted"].required_members == 2
    assert full.ensembles["weighted"].weights == (3.0, 1.0)
    lite0 = full.members["lite0"]
    assert lite0.model == tmp_path / "models/lite0.onnx"
    assert lite0.labels == tmp_path / "labels.txt"
    assert backend_for(lite0.model) == "onnx"
    assert lite0.input is not None
    assert lite0.input.image.mean == (127, 127, 127)
    assert lite0.input.image.std == (1, 2, 3)
    assert lite0.input.image.preparation() == Preparation(size=224)
    assert full.members["lite1"].model == RecipeConfig(recipe="efficientnet_lite1")
    assert full.members["lite1"].backend is None
    assert full.members["lite1"].inputs["pixels"].name == "image"
    assert full.members["slow"].model == "fake"
    assert full.devices[1].memory_bytes == 4 << 30
    assert full.server.max_request_bytes == 32 << 20
    assert full.server.log_level == "info"


def test_defaults(write):
    config = load_config(write(MINIMAL))
    assert config.ensembles == {}
    assert (config.devices, config.allocation) == ("auto", "auto")
    assert (config.server.host, config.server.http_port, config.server.grpc_port) == (
        "127.0.0.1",
        8000,
        8001,
    )
    assert config.server.arena_bytes is None


def test_virtual_devices_may_share_cores_and_gpus(write):
    config = load_config(
        write(
            MINIMAL
            + """
devices:
  - {name: one, part_of: cpu, cores: [0]}
  - {name: "cpu:all", part_of: cpu}
  - {name: cpu:7, part_of: cpu, cores: [0, 1], memory_bytes: 1GiB}
  - {name: cuda:0a, part_of: cuda:0, memory_fraction: 0.7}
  - {name: cuda:0b, part_of: cuda:0, memory_fraction: 0.3}
  - {name: small, part_of: cuda:1, memory_bytes: 1GiB}
"""
        )
    )
    assert [(device.source, device.is_cuda) for device in config.devices] == [
        *[("cpu", False)] * 3,
        *[("cuda:0", True)] * 2,
        ("cuda:1", True),
    ]


def test_a_link_to_a_model_keeps_its_name(write, tmp_path):
    (tmp_path / "blob").touch()
    (tmp_path / "model.onnx").symlink_to(tmp_path / "blob")
    config = load_config(write("members: {a: {model: model.onnx}}"))
    assert config.members["a"].model == tmp_path / "model.onnx"


def test_paths_are_absolute_although_the_configurations_is_not(write, tmp_path, monkeypatch):
    path = write("members: {a: {model: model.onnx}}")
    (tmp_path / "model.onnx").touch()
    monkeypatch.chdir(tmp_path)
    assert load_config(Path(path.name)).members["a"].model == tmp_path / "model.onnx"


def test_configurations_are_frozen(full):
    with pytest.raises(ValidationError):
        full.server.http_port = 1


@pytest.mark.parametrize(
    ("name", "backend"),
    [("a.onnx", "onnx"), ("a.PT2", "torch"), ("a.pt", "torch"), ("a.ts", "torch"), ("a.bin", None)],
)
def test_the_suffix_tells_the_backend(name, backend):
    assert backend_for(Path(name)) == backend


def test_a_fake_is_described_alike_to_the_user_and_to_the_worker(full):
    assert set(FakeConfig.model_fields) == set(FakeOptions.__struct_fields__)
    fake = full.members["slow"].fake
    assert fake.options() == FakeOptions(inputs={"x": (784,)}, outputs=10, sleep_ms=3)
    defaults = FakeConfig(inputs={"x": (1,)}, outputs=1).options()
    assert defaults == FakeOptions(inputs={"x": (1,)}, outputs=1)
    assert msgspec.json.decode(msgspec.json.encode(defaults), type=FakeOptions) == defaults


def test_the_environment_wins_over_the_file(write, monkeypatch):
    monkeypatch.setenv("ENSEMBLED_SERVER__HTTP_PORT", "9000")
    monkeypatch.setenv("ENSEMBLED_SERVER__MAX_REQUEST_BYTES", "1MiB")
    monkeypatch.setenv("ENSEMBLED_SERVER__HOST", "")
    monkeypatch.setenv("ENSEMBLED_CACHE", "/somewhere")
    monkeypatch.setenv("ENSEMBLED_MEMBERS", "not ours")
    config = load_config(write(MINIMAL + "server: {http_port: 1, grpc_port: 2}"))
    assert config.server.http_port == 9000
    assert config.server.grpc_port == 2
    assert config.server.max_request_bytes == 1 << 20
    assert config.server.host == "127.0.0.1"


def test_overriding_the_server_section(full):
    changed = override_server(full, host="0.0.0.0", http_port=0)
    assert (changed.server.host, changed.server.http_port) == ("0.0.0.0", 0)
    assert changed.server.max_request_bytes == full.server.max_request_bytes
    assert changed.directory == full.directory
    assert full.server.http_port == 8000
    with pytest.raises(ConfigError, match="command line: http_port and grpc_port are both 8001"):
        override_server(full, http_port=8001)


def test_there_is_memory_for_one_request_at_least(full):
    with pytest.raises(
        ConfigError, match="waiting_bytes is 536870912, less than max_request_bytes"
    ):
        override_server(full, max_request_bytes="1GiB")


def test_the_package_exports_what_it_lists():
    assert all(hasattr(server.config, name) for name in server.config.__all__)
    assert server.config.__all__ == sorted(server.config.__all__)
