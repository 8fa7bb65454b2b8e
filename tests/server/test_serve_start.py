"""What can be found wrong before taking traffic is, and said in one line."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper
from serving import configuration, devices, fake

pytestmark = pytest.mark.process

#: What HiGHS says of itself before it can be told not to.
SOLVER = ("Running HiGHS", "Includes third-party software")

ROOT = Path(__file__).parents[2]


def run(command, config, tmp_path, *arguments):
    """Run a command of `ensembled` to its end: status, stdout, and the lines of stderr."""
    path = config
    if isinstance(config, dict):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config))
    script = str(Path(sys.executable).with_name("ensembled"))
    done = subprocess.run(
        [script, command, str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr.splitlines()


def write_model(path, nodes, *, shape=("n", 4)):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), path)


def identity(path, **options):
    write_model(path, [helper.make_node("Identity", ["x"], ["y"])], **options)


def square_root(path):
    """The square root of -x: fine for zeros, NaN for what is positive."""
    negate, root = helper.make_node("Neg", ["x"], ["z"]), helper.make_node("Sqrt", ["z"], ["y"])
    write_model(path, [negate, root])


def corrupt(path):
    identity(path)
    path.write_bytes(path.read_bytes()[:40])


def models(**members):
    return {
        "members": members,
        "ensembles": {"e": {"members": list(members)}},
        "server": {"grpc_port": 0},
    }


CASES = {
    "missing": (None, ["m.onnx", "members.m"]),
    "corrupt": (corrupt, ["m.onnx", "member m"]),
    "empty": (lambda path: path.write_bytes(b""), ["m.onnx", "member m"]),
    "no batch": (lambda path: identity(path, shape=(1, 4)), ["m.onnx", "member m", "batch"]),
    "scalar": (lambda path: identity(path, shape=()), ["m.onnx", "member m", "batch"]),
}


@pytest.mark.parametrize("command", ["serve", "check"])
@pytest.mark.parametrize("case", CASES)
def test_models_that_can_not_be_served(tmp_path, command, case):
    make, parts = CASES[case]
    if make is not None:
        make(tmp_path / "m.onnx")
    port = ["--http-port", "0"] if command == "serve" else []
    status, out, lines = run(command, models(m={"model": "m.onnx"}), tmp_path, *port)
    assert (status, out) == (2, "")
    (line,) = [line for line in lines if line.startswith("error: ")]
    for part in parts:
        assert part in line, line
    assert [line for line in lines if " INFO " not in line] == [line]


def test_members_that_disagree(tmp_path):
    config = models(
        a={"model": "fake", "fake": {"inputs": {"x": [4]}, "outputs": 3}},
        b={"model": "fake", "fake": {"inputs": {"x": [4]}, "outputs": 2}},
    )
    for command in ("check", "serve"):
        port = ["--http-port", "0"] if command == "serve" else []
        status, out, lines = run(command, config, tmp_path, *port)
        assert (status, out) == (2, "")
        (line,) = lines
        assert line.startswith("error: ")
        assert (
            "ensembles.e: members disagree on the shape of their output: 'a' [3], 'b' [2]" in line
        )


def test_a_port_in_use(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = configuration({"a": fake()})
        status, out, lines = run("serve", config, tmp_path, "--http-port", str(port))
    assert (status, out) == (1, "")
    (line,) = lines
    assert line.startswith("error: ")
    assert f"127.0.0.1:{port}" in line
    assert "in use" in line


@pytest.mark.parametrize("placed", [False, True])
def test_a_model_that_answers_with_nan(tmp_path, placed):
    """For zeros it answers with zeros; what profiling, or the warm-up, sends it makes NaN."""
    square_root(tmp_path / "m.onnx")
    config = {**models(m={"model": "m.onnx"}), "devices": devices(1)}
    if placed:  # so it is not profiled
        matrix = {"members": ["m"], "devices": ["cpu:0"], "matrix": [[4]]}
        (tmp_path / "allocation.json").write_text(json.dumps(matrix))
        config["allocation"] = "allocation.json"
    status, out, lines = run("serve", config, tmp_path, "--http-port", "0")
    assert (status, out) == (1, "")
    (line,) = [line for line in lines if line.startswith("error: ")]
    for part in ("'m'", "m.onnx", *(("NaN", "warm-up") if placed else ("not a finite number",))):
        assert part in line


def test_a_torch_file_that_carries_code_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "m.pt")
    config = models(m={"model": "m.pt", "inputs": {"x": {"datatype": "FP32", "shape": [2]}}})
    status, _, lines = run("check", config, tmp_path)
    assert status == 2
    (line,) = [line for line in lines if line.startswith("error: ")]
    assert "m.pt" in line


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"members": {}}, "members"),
        ({"unknown": 1}, "unknown"),
        ({"server": {"http_port": "eighty"}}, "server.http_port"),
        ({"devices": [{"name": "cpu:0", "cores": [4096]}]}, "devices"),
        ({"devices": [{"name": "cuda:77"}]}, "devices"),
        ({"server": {"arena_bytes": 1000, "grpc_port": 0}}, "server.arena_bytes"),
        ({"allocation": "nowhere.json"}, "nowhere.json"),
    ],
)
def test_configurations_that_are_wrong(tmp_path, change, part):
    config = {**configuration({"a": fake()}), **change}
    status, out, lines = run("serve", config, tmp_path, "--http-port", "0")
    assert (status, out) == (2, "")
    assert all(line.startswith("error: ") for line in lines)
    assert any(part in line for line in lines), lines


def test_check_says_what_would_be_served(tmp_path):
    status, out, lines = run("check", configuration({"a": fake(), "b": fake(1)}), tmp_path)
    said = [line for line in lines if not line.startswith(SOLVER)]
    assert (status, said) == (0, [])
    assert "all: a, b -> FP32 [2]" in out
    assert "cpu:0: a x" in out
    assert out.endswith("the configuration is valid\n")


@pytest.mark.parametrize("name", ["digits", "imagenet"])
def test_the_configurations_that_we_ship_are_valid(tmp_path, name):
    status, out, _ = run("check", ROOT / f"configs/{name}.yaml", tmp_path)
    assert status == 0
    assert f"{name}: " in out


def test_the_server_prints_one_line_and_serves_by_its_options(serve):
    server = serve(configuration({"a": fake(1)}), arguments=("--host", "localhost"))
    np.testing.assert_array_equal(server.predict("a", [[1, 2]]).values, [[2, 3]])
    roles = sorted(child.cmdline()[0] for child in server.children())
    assert roles == ["ensembled combiner", "ensembled front-end", "ensembled worker cpu:0"]
    assert server.process.cmdline()[0] == "ensembled"


@pytest.mark.parametrize(
    "module", ["server.front_end.process", "workers.combiner.process", "server.supervision.launch"]
)
def test_only_workers_pay_for_the_runtimes(module):
    code = (
        f"import sys, {module}\n"
        "print([m for m in ('torch', 'onnxruntime', 'onnx', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "[]\n"


def test_a_combiner_needs_no_web_framework():
    code = (
        "import sys, workers.combiner.process, workers.worker.process\n"
        "print([m for m in ('fastapi', 'uvicorn', 'pydantic', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "[]\n"
