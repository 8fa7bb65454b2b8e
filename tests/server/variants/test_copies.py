"""What copies are calibrated on, and why some are not made."""

from dataclasses import replace

import numpy as np
from inspected import image, member

import server.variants.copies
from server.inference.images import preprocess_image
from server.variants.copies import make_copies, uncopied
from workers.quantizer import CopyError
from workers.quantizer.__main__ import _reason
from workers.runtime.spec import ModelSource, TensorSpec


def test_images_are_calibrated_on_as_the_server_prepares_them(tmp_path, monkeypatch):
    tasks = []

    def make(task):
        tasks.append(task)
        with np.load(task.calibration) as held:
            tasks.append(held["arr_0"])
        raise CopyError("not today")

    monkeypatch.setattr(server.variants.copies, "make_copy", make)
    one = member("m", **image(8))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
    left_out = {}
    assert make_copies(one, {"image": pixels}, ["int8"], tmp_path, left_out) == []
    task, given = tasks
    assert task.inputs == ("pixels",)
    preparation = one.inputs[0].image.preparation()
    prepared = [preprocess_image(row, [preparation], 600)[0] for row in pixels]
    expected = (np.stack(prepared).transpose(0, 3, 1, 2).astype(np.float32) - 127) / 128
    np.testing.assert_allclose(given, expected, rtol=1e-6)
    assert left_out == {"m-int8": "not today"}
    assert list(tmp_path.iterdir()) == []


def test_members_without_copies_are_told_why():
    texts = member("t", inputs=(TensorSpec("x", "BYTES", (1,)),))
    assert uncopied(texts) == "its inputs are texts"
    torch = replace(member("m"), source=ModelSource("m", "torch", "m.pt2"))
    assert "only ONNX files" in uncopied(torch)
    assert uncopied(member("m")) == ""


def test_a_missing_package_is_named_with_the_fix():
    missing = ModuleNotFoundError("No module named 'onnx'", name="onnx.helper")
    assert _reason(missing) == "needs the package onnx: pip install 'ensembled[variants]'"
    assert _reason(ValueError("any\nthing")) == "any thing"
