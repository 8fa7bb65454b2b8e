"""Members in Python, served: they answer, and those that fail hurt nobody but themselves."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from serving import canary, configuration, fake, wait_for

ENSEMBLED = str(Path(sys.executable).with_name("ensembled"))
pytestmark = pytest.mark.process

#: Adds a number; fails in the way that the first element of its first row says.
MEMBER = """
    import ctypes, os, signal, subprocess, sys, threading
    import numpy as np

    signal.signal(signal.SIGINT, lambda *_: None)
    held = []

    class Adds:
        inputs = {"x": ("FP32", [2])}

        def __init__(self, add):
            self.add = np.float32(add)

        def load(self, device):
            threading.Thread(target=threading.Event().wait).start()  # which never ends
            assert sys.stdin.read() == ""

        def predict(self, x):
            kind = int(x[0, 0])
            if kind == -1:
                raise ValueError("a row that it does not like")
            if kind == -2:
                sys.exit("no more")
            if kind == -3:
                os._exit(3)
            if kind == -4:
                threading.Event().wait()
            if kind == -5:
                return None
            if kind == -6:
                return {"sum": x[:, :1]}
            if kind == -7:
                return {"sum": x * np.nan}
            if kind == -8:
                print("from Python")
                ctypes.CDLL(None).puts(b"from C")
            if kind == -9 and len(held) < 3:  # more would make the kernel choose a process
                held.append(np.ones(200 << 20, np.uint8))
            if kind == -10:
                raise MemoryError("too large")
            if kind == -11:
                raise RecursionError
            x += self.add
            return {"sum": x}
"""
NET = """
    import torch
    class Net(torch.nn.Module):
        inputs = {"x": ("FP32", [2])}
        labels = ["no", "yes"]
        output = "logits"
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)
        def forward(self, x):
            return self.linear(x)
"""


def write(path: Path, code: str) -> Path:
    path.write_text(textwrap.dedent(code))
    return path


def adding(path: Path, add: float, **more: object) -> dict[str, object]:
    return {"model": {"python": f"{path}:Adds", "args": {"add": add}}, **more}


@pytest.fixture(scope="module")
def member(tmp_path_factory):
    return write(tmp_path_factory.mktemp("python") / "adds.py", MEMBER)


@pytest.fixture
def served(serve, member):
    """A Python member beside a fake, of which one suffices for an answer, in time if asked so."""
    config = configuration(
        {"p": adding(member, 2.0, batch_size=4), "f": fake(4.0)},
        ensemble={"quorum": 1},
        on=2,
        where={"p": 0, "f": 1},
    )
    config["ensembles"]["hasty"] = {**config["ensembles"]["all"], "deadline_ms": 300}
    config["devices"][0]["memory_bytes"] = "500MiB"
    return serve(config)


def test_a_row_that_fails_is_told_and_fails_alone(served):
    for kind, reason in (
        (-1, "ValueError: a row that it does not like (adds.py, line"),
        (-5, "predict returned None"),
        (-6, "answers [1, 1] to a batch of 1 rows"),
        (-7, "not a finite number"),
        (-10, "too large"),
        (-11, "RecursionError"),
    ):
        answer = served.predict("p", [[kind, 0.0]])
        assert answer.status == 500, answer.json
        assert reason in answer.error
        assert served.predict("all", [[kind, 0.0]]).members == ["f"]
    x = np.array([[-1.0, 0.0], [1.0, 0.0], [2.0, 0.0]], np.float32)
    assert "does not like" in served.predict("p", x).error
    canary(served)
    assert "worker cpu:0 died" not in served.stderr


@pytest.mark.parametrize(
    ("kind", "told"),
    [(-2, "worker cpu:0 died (no more)"), (-3, "ended: 3"), (-4, "worker cpu:0 hangs")],
)
def test_one_that_ends_its_worker_or_hangs_is_replaced(served, kind, told):
    before = served.child("worker cpu:0").pid
    assert served.predict("hasty", [[kind, 0.0]]).members == ["f"]
    wait_for(lambda: served.child("worker cpu:0").pid != before, "another worker", 60)
    canary(served)
    assert told in served.stderr


def test_one_that_leaks_is_replaced_before_memory_runs_out(served):
    before = served.child("worker cpu:0").pid

    def leak():
        served.predict("hasty", [[-9.0, 0.0]])
        return served.child("worker cpu:0").pid != before

    wait_for(leak, "another worker", 60)
    canary(served)
    assert "of memory, its devices have 500 MiB: killing it" in served.stderr


def test_what_it_prints_is_logged(served):
    assert served.predict("p", [[-8.0, 1.0]]).values.tolist() == [[-6.0, 3.0]]
    for line in ("from Python", "from C"):
        wait_for(lambda line=line: f"worker cpu:0 printed: {line}" in served.stderr, line)


def test_a_module_with_its_weights_gives_classes(serve, tmp_path):
    weights = {
        "linear.weight": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        "linear.bias": torch.zeros(2),
    }
    save_file(weights, tmp_path / "w.safetensors")
    path = write(tmp_path / "net.py", NET)
    model = {"python": f"{path}:Net", "weights": str(tmp_path / "w.safetensors")}
    server = serve(configuration({"n": {"model": model}}, where={"n": 0}))
    x = np.array([[1.0, 2.0], [3.0, 1.0]], np.float32)
    odds = np.exp(x - x.max(1, keepdims=True))
    np.testing.assert_allclose(
        server.predict("all", x).values, odds / odds.sum(1, keepdims=True), rtol=1e-6
    )
    labels = server.client.get("/v2/models/n/config").json()
    assert "yes" in str(labels)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (
            "import no_such_thing",
            "ModuleNotFoundError: No module named 'no_such_thing' (mine.py, line 1)",
        ),
        ("import os; os._exit(4)", "the process that loaded it exited 4: no message"),
        ("import os; os.kill(os.getpid(), 11)", "the process that loaded it died of SIGSEGV"),
        ("class Mine: pass", "Mine has no method predict"),
    ],
)
def test_one_that_can_t_be_loaded_is_refused(tmp_path, code, told):
    write(tmp_path / "mine.py", code)
    (tmp_path / "c.yaml").write_text("members: {a: {model: {python: mine:Mine}}}")
    done = subprocess.run(
        [ENSEMBLED, "check", tmp_path / "c.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert told in done.stderr
