"""The example runs as it is, over both protocols."""

import runpy
import sys
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).parents[2] / "examples/quickstart.py"


def test_it_runs(url, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--url", url, "--ensemble", "duo"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "models: duo"
    assert lines[1].startswith("Prediction(values=[2, 2], members=a,b")
    assert any("entropy" in line for line in lines)
    assert lines[-2].startswith("a alone: [[('")
    assert lines[-1].startswith("a microsecond is not enough")


def test_random_images():
    class Photos:
        @staticmethod
        def metadata():
            return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}]}

    rows = runpy.run_path(str(SCRIPT))["random_rows"](Photos())
    assert rows["image"].dtype == np.uint8
    assert rows["image"].shape[-1] == 3
