"""`ensembled describe`: what a model is, from a file or a server, and requests that work."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from server.cli.examples import ExampleRequest, TensorInfo
from server.cli.main import app
from tests.support.networks import write_network
from tests.support.serving import devices, running

TEXTS = """
import numpy as np

class Lengths:
    inputs = {"text": ("BYTES", [2], 100)}

    def predict(self, text):
        return np.array([[len(one) for one in row] for row in text], np.float32)
"""


def write_config(directory):
    write_network(
        directory / "photo.onnx",
        [("ReduceMean", ["x"], "y", {"axes": [2, 3], "keepdims": 0})],
        x=("FP32", [3, 16, 16]),
        outputs={"y": "FP32"},
    )
    write_network(
        directory / "words.onnx",
        [
            ("Cast", ["x"], "numbers", {"to": 1}),
            ("ReduceMean", ["numbers"], "y", {"axes": [1], "keepdims": 1}),
        ],
        x=("INT64", ["length"]),
        outputs={"y": "FP32"},
    )
    (directory / "texts.py").write_text(TEXTS)
    (directory / "labels.txt").write_text("red\ngreen\nblue\n")
    image = {"image": {"size": 16, "mean": 0, "std": 255}}
    several = {"inputs": {"x": [3, 64, 64], "it's": [2]}, "outputs": 2}
    members = {
        "photo": {
            "model": "photo.onnx",
            "input": image,
            "labels": "labels.txt",
            "output": "logits",
        },
        "several": {"model": "fake", "fake": several},
        "words": {"model": "words.onnx", "inputs": {"x": {"max_shape": [4], "pad": 0}}},
        "texts": {"model": {"python": "texts.py:Lengths"}},
        "small": {"model": "fake", "fake": {"inputs": {"x": [2]}, "outputs": 2}},
        "other": {"model": "fake", "fake": {"inputs": {"x": [2]}, "outputs": 2}},
    }
    both = {"members": ["small", "other"], "deadline_ms": 5000, "quorum": 1}
    allocation = {"members": [*members], "devices": ["cpu:0"], "matrix": [[8] * len(members)]}
    (directory / "allocation.json").write_text(json.dumps(allocation))
    document = {
        "members": members,
        "ensembles": {"both": both},
        "devices": devices(1),
        "allocation": "allocation.json",
    }
    path = directory / "config.yaml"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("describe"))


@pytest.fixture(scope="module")
def server(config, tmp_path_factory):
    with running(config, tmp_path_factory.mktemp("server")) as server:
        yield server


def describe(*arguments, code=0):
    result = CliRunner().invoke(app, ["describe", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_a_model_of_a_configuration_in_words(config):
    text = describe(config, "both").stdout
    first, *lines = text.splitlines()
    assert first == (
        "both: an ensemble of small, other; rule mean, an answer needs 1 of 2, deadline 5000 ms"
    )
    assert lines[:8] == [
        "",
        "inputs",
        "  x  FP32 [n, 2]",
        "",
        "outputs",
        "  output  FP32 [n, 2]",
        "",
        "on request",
    ]
    assert "  member_mask  BOOL [n, 2]" in lines
    text = describe(config, "photo").stdout
    assert "  image  [n] encoded images" in text
    assert "  x  INT64 [n, up to 4]\n" in describe(config, "words").stdout
    assert "  text  BYTES [n, 2]\n" in describe(config, "texts").stdout
    assert "3 labels: red, green, blue\n" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("bothe",), 2, "error: there is no model 'bothe', did you mean 'both'?"),
        (
            ("zzz",),
            2,
            "error: there is no model 'zzz', there are both, photo, several, words, texts",
        ),
    ],
)
def test_a_model_that_is_not_there(config, arguments, code, message):
    assert message in describe(config, *arguments, code=code).stderr


@pytest.mark.process
def test_a_server_says_the_same_as_its_configuration(config, server):
    for model in ("both", "photo", "several", "words", "texts"):
        asked = json.loads(describe(server.url, model, "--json").stdout)
        inspected = json.loads(describe(config, model, "--json").stdout)
        assert {**asked, "examples": 0} == {**inspected, "examples": 0}
    assert "did you mean 'both'" in describe(server.url, "bothe", code=2).stderr


@pytest.mark.process
@pytest.mark.parametrize("model", ["both", "photo", "several", "words", "texts"])
def test_what_is_pasted_works(server, tmp_path, model):
    Image.new("RGB", (20, 20), "blue").save(tmp_path / "photo.jpg")
    found = json.loads(describe(server.url, model, "--json").stdout)["examples"]
    shell = run(["bash", "-c", found["curl"]], tmp_path)
    (output,) = json.loads(shell)["outputs"]
    program = run([sys.executable, "-W", "error", "-c", found["python"]], tmp_path)
    # The command of the shell sends zeros where there are many.
    if model != "several":
        values = np.array(output["data"]).reshape(output["shape"]).astype(np.float32)
        assert program.splitlines()[0] == str(values)
    if model == "photo":
        assert program.splitlines()[1].startswith("[[('blue', ")


def run(command, directory):
    ended = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_no_server():
    assert "error: http://127.0.0.1:9: " in describe("http://127.0.0.1:9", "both", code=1).stderr


INPUTS = (
    TensorInfo("ids", "INT64", (-1, -1), (4,)),
    TensorInfo("text", "BYTES", (-1, 2)),
    TensorInfo("wide", "BF16", (-1, 3)),
    TensorInfo("on", "BOOL", (-1,)),
)


def test_examples_of_every_kind_of_tensor():
    request = ExampleRequest("m", INPUTS, "https://host:1", needs_key=True)
    curl = request.by_curl()
    assert '"name": "ids", "shape": [1, 4], "datatype": "INT64", "data": [1, 1, 1, 1]' in curl
    assert '"data": ["a text", "a text"]' in curl
    assert '"datatype": "BF16", "parameters": {"binary_data_size": 6}' in curl
    assert "head -c 6 /dev/zero" in curl
    assert '-H "Authorization: Bearer $ENSEMBLED_API_KEY"' in curl
    for program in (request.by_python(), request.by_tritonclient()):
        compile(program, "example", "exec")
        assert "ENSEMBLED_API_KEY" in program
    assert "np.ones((1, 3), np.float32)" in request.by_python()
    assert "ssl=True" in request.by_tritonclient()


def test_examples_of_a_version():
    request = ExampleRequest("m", INPUTS[3:], "http://host:1", version="2")
    assert "/v2/models/m/versions/2/infer " in request.by_curl()
    assert 'client.predict("m", x, version="2")' in request.by_python()
    assert 'client.infer("m", inputs, model_version="2")' in request.by_tritonclient()
