"""Every code block of README.md runs, in its order, and prints what the page shows."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.docs.pages import ROOT, Reader, blocks_of
from tests.server.cli.test_allocate import DEVICES, PROFILES
from tests.support.networks import write_network

README = ROOT / "README.md"
PAGE = README.read_text()
CLASSES = ["daisy", "rose", "tulip"]
OWN_ENSEMBLE = PAGE.count("\n", 0, PAGE.index("## Your own ensemble"))


def test_every_block_says_what_it_is():
    fences = re.findall(r"^```(\w*)", PAGE, re.MULTILINE)[::2]
    assert set(fences) <= {"sh", "console", "python", "yaml", "text"}


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_use_it(tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    photos = Path(sklearn.datasets.__file__).parent / "images"
    shutil.copy(photos / "china.jpg", tmp_path)
    shutil.copy(photos / "flower.jpg", tmp_path)
    shutil.copy(README, tmp_path)
    with Reader(tmp_path, replace={"--duration 10": "--duration 2"}) as reader:
        for block in blocks_of(README):
            if block.line < OWN_ENSEMBLE:
                reader.follow(block)


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_your_own_ensemble_and_all_that_follows(tmp_path):
    (tmp_path / "models").mkdir()
    for seed, name in enumerate("abc"):
        write_image_network(tmp_path / f"models/{name}.onnx", seed)
    for seed, name in enumerate(("cat-may", "cat-june")):
        write_image_network(tmp_path / f"{name}.onnx", seed)
    write_wine_models(tmp_path / "models")
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES))
    random = np.random.default_rng(0)
    photos = random.integers(0, 255, (120, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "flowers.npz", image=photos, y=np.arange(120) % 3)
    (tmp_path / "devices.json").write_text(json.dumps(DEVICES))
    (tmp_path / "profiles.json").write_text(json.dumps(PROFILES))
    blocks = [block for block in blocks_of(README) if block.line >= OWN_ENSEMBLE]
    assert len(blocks) >= 4
    with Reader(tmp_path) as reader:
        for block in blocks:
            reader.follow(block)
    assert (tmp_path / "matrix.svg").exists()


def write_wine_models(directory):
    """Write models of the same table: a pipeline and trees."""
    skops_io, xgboost = pytest.importorskip("skops.io"), pytest.importorskip("xgboost")
    x, y = sklearn.datasets.load_wine(return_X_y=True, as_frame=True)
    table = x[["alcohol", "hue"]]
    linear = make_pipeline(StandardScaler(), LogisticRegression()).fit(table, y)
    skops_io.dump(linear, directory / "linear.skops")
    trees = xgboost.XGBClassifier(n_estimators=3, max_depth=2).fit(table, y)
    trees.save_model(directory / "trees.json")


def write_image_network(path, seed):
    """Write a network that takes photos of 224 x 224 and knows `CLASSES`."""
    weights = np.random.default_rng(seed).normal(size=(3, len(CLASSES))).astype(np.float32)
    write_network(
        path,
        [
            ("GlobalAveragePool", ["x"], "mean", {}),
            ("Flatten", ["mean"], "flat", {}),
            ("MatMul", ["flat", "weights"], "logits", {}),
        ],
        x=("FP32", [3, 224, 224]),
        outputs={"logits": "FP32"},
        constants={"weights": weights},
    )
