"""Training functions without a network, for `ensembled grow FILE.py:NAME`; members are fakes."""

import os
import signal
import time
from pathlib import Path


def space(trial):
    return {"add": trial.suggest_float("add", 0, 3), "index": trial.suggest_int("index", 0, 2)}


def _fake(config, run):
    """A member for inputs of four numbers, whose best class is the index of the first greatest."""
    (run.directory / "weights.bin").write_bytes(b"123")
    fake = {"inputs": {"x": [4]}, "outputs": 3, "add": config["add"]}
    return {"model": "fake", "fake": fake, "output": "logits"}


def train(config, run):
    """Trial n has the quality n / 100."""
    for step in range(run.budget):
        yield (run.number / 100) * (step + 1) / run.budget
    return _fake(config, run)


def fail(config, run):
    """Every trial but the last fails, in another way; the second kills its process."""
    if run.number == 0:
        raise ValueError("the first trial is wrong")
    if run.number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    yield float("nan") if run.number == 2 else 0.5
    if run.number == 3:
        (run.directory / "model.onnx").write_bytes(b"no model")
        return run.directory / "model.onnx"
    return _fake(config, run)


def wait(config, run):
    """Wait in every trial until the directory `gate` has a file `open`; tell that it has begun."""
    gate = Path(config["gate"])
    (run.directory / "half").write_bytes(b"half")
    (gate / f"begun-{run.number}").touch()
    while not (gate / "open").exists():
        time.sleep(0.01)
    yield 0.5
    return _fake(config, run)


def hopeless(config, run):
    raise RuntimeError("nothing works")
    yield
