"""`ensembled variants` from end to end, on a small network; what it refuses."""

import json

import numpy as np
import psutil
import pytest
import yaml
from networks import write_network
from serving import fake, title
from typer.testing import CliRunner

from server.cli.main import app
from server.config import load_config

ROWS = 120
CLASSES = 3


def write_perceptron(path):
    """Write a network whose best class is that of the largest of three sums of inputs."""
    random = np.random.default_rng(0)
    first = random.normal(size=(6, 32)).astype(np.float32)
    return write_network(
        path,
        [
            ("MatMul", ["x", "first"], "sums", {}),
            ("Relu", ["sums"], "hidden", {}),
            ("MatMul", ["hidden", "last"], "y", {}),
        ],
        x=("FP32", [6]),
        outputs={"y": "FP32"},
        constants={
            "first": first,
            "last": random.normal(size=(32, CLASSES)).astype(np.float32),
        },
    )


@pytest.fixture
def files(tmp_path):
    write_perceptron(tmp_path / "net.onnx")
    document = {
        "members": {
            "net": {"model": "net.onnx", "output": "logits", "batch_size": 4},
            "other": fake(inputs=6, outputs=CLASSES, batch_size=4),
        },
        "ensembles": {"all": {"members": ["net"]}},
        "devices": [{"name": "cpu:0", "cores": [0]}],
        "server": {"grpc_port": 0},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    x = np.random.default_rng(1).normal(size=(ROWS, 6)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(ROWS) % CLASSES)
    return tmp_path


def variants(files, *arguments):
    command = ["variants", files / "config.yaml", "--data", files / "data.npz", *arguments]
    result = CliRunner().invoke(app, [str(one) for one in command])
    assert not any("ensembled" in title(one) for one in psutil.Process().children())
    return result


@pytest.mark.process
def test_copies_are_made_checked_and_written(files):
    outputs = files / "lower" / "serve.yaml", files / "library.yaml"
    outputs[0].parent.mkdir()
    options = ("--precision", "int8", "--precision", "fp16", "--max-disagreement", "0.5", "--json")
    result = variants(files, *options, "--output", outputs[0], "--library", outputs[1])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["rows"] == {"calibration": ROWS // 2, "checked": ROWS // 2}
    assert "only ONNX files" in document["left_out"]["other"]
    int8, fp16 = document["copies"]
    assert (int8["variant"], fp16["variant"]) == ("int8", "fp16")
    for one in (int8, fp16):
        assert one["offered"]
        assert one["disagreement"]["share"] < 0.1
        assert 0 < one["max_difference"] < 0.1
        assert one["rows_per_s"].keys() == {"cpu-1"}
        assert one["quality"][0]["measure"] == "accuracy"
    assert int8["max_difference"] > fp16["max_difference"]

    written = yaml.safe_load(outputs[0].read_text())["members"]
    assert written["net"]["model"] == "../net.onnx"
    assert written["net"]["may_differ"] == 0.5
    assert written["net"]["variants"]["int8"] == {
        "model": "serve/net-int8.onnx",
        "runs_on": "cpu",
        "disagreement": pytest.approx(int8["disagreement"]["share"], abs=1e-4),
    }
    served = load_config(outputs[0])
    assert served.members["net"].variants["fp16"].runs_on == "gpu"
    assert list(served.ensembles) == ["all"]
    members = load_config(outputs[1]).members
    assert list(members) == ["net", "other", "net-int8", "net-fp16"]
    assert members["net-int8"].model == files / "lower" / "serve" / "net-int8.onnx"
    assert members["net-int8"].output == "logits"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--member", "nett"), "--member: there is no member 'nett', did you mean 'net'?"),
        (("--calibration", "none.npz"), "--calibration none.npz: No such file"),
        (("--output", "none/out.yaml"), "--output"),
        (("--precision", "int4"), "int4"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(files, arguments, said):
    result = variants(files, *arguments)
    assert result.exit_code == 2
    assert said in result.output


def test_labels_of_other_rows_are_refused(files):
    np.savez(files / "data.npz", x=np.zeros((30, 6), np.float32), y=np.zeros(29, np.int64))
    result = variants(files, "--precision", "int8", "--member", "net")
    assert result.exit_code == 2
    assert "y should be a class per row, [30], not [29]" in result.output


def test_two_results_need_two_files(files):
    path = str(files / "one.yaml")
    result = variants(files, "--output", path, "--library", path)
    assert result.exit_code == 2
    assert "is the file of --output" in result.output


def test_too_few_rows_are_refused(files):
    np.savez(files / "data.npz", x=np.zeros((7, 6), np.float32))
    result = variants(files)
    assert result.exit_code == 2
    assert "7 rows are too few" in result.output
