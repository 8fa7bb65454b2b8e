"""What a model file or directory is, by its content."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tests.support.trained import people_pipeline, saved
from tests.workers.model_files import Affine, export
from workers.adapters.formats import recognise, wrong_format


def zipped(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    return path


def written(path, content):
    path.write_bytes(content)
    return path


def directory(path, **files):
    path.mkdir()
    for name, content in files.items():
        (path / name.replace("_", ".", 1)).write_text(json.dumps(content))
    return path


def scripted(path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    return path


def checkpoint(path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    return path


def arrays(path):
    np.savez(path, x=np.zeros(2))
    return path


def tensors(path):
    save_file({"x": np.zeros(2, np.float32)}, path)
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "name", "key"),
    [
        (lambda p: saved(people_pipeline(), p / "m.skops"), "scikit-learn", "sklearn"),
        (lambda p: written(p / "m", pickle.dumps({})), "a pickle", "sklearn"),
        (lambda p: written(p / "m.pkl", pickle.dumps({}, protocol=0)), "a pickle", "sklearn"),
        (lambda p: written(p / "m", b'{"learner":{"attributes"'), "XGBoost", "xgboost"),
        (lambda p: written(p / "m", b'{"version":[3,0,0],"learner"'), "XGBoost", "xgboost"),
        (lambda p: written(p / "m", b"{L\0\0\0\0\0\0\0\x07learner{"), "XGBoost", "xgboost"),
        (lambda p: written(p / "m", b"tree\nversion=v4\n"), "LightGBM", "lightgbm"),
        (lambda p: written(p / "m", b"CBM1\0\0"), "CatBoost", "catboost"),
        (lambda p: zipped(p / "m", "metadata.json", "config.json", "model.weights.h5"),
         "Keras", "keras"),
        (lambda p: export(p / "m.pt2", Affine()), "exported PyTorch program", "path"),
        (lambda p: scripted(p / "m.pt"), "TorchScript", "path"),
        (lambda p: written(p / "m.onnx", b"\x08\x08"), "ONNX", "path"),
        (lambda p: written(p / "m.py", b"class A: ..."), "Python", "python"),
        (lambda p: directory(p / "d", MLmodel={}), "MLflow", "mlflow"),
        (lambda p: directory(p / "d", config_json={"model_type": "bert"}), "transformers",
         "transformers"),
        (lambda p: checkpoint(p / "m.pt"), "checkpoint of torch.save", ""),
        (lambda p: tensors(p / "m.safetensors"), "weights alone", ""),
        (lambda p: arrays(p / "m.npz"), "NumPy arrays", ""),
        (lambda p: written(p / "m.h5", b"\x89HDF\r\n"), "HDF5", ""),
        (lambda p: directory(p / "d", saved__model_pb=""), "no kind of model", ""),
        (lambda p: written(p / "m.txt", b"hello"), "no kind of model", ""),
        (lambda p: written(p / "m.zip", b"PK\x03\x04 and no more"), "damaged", ""),
        (lambda p: zipped(p / "m.zip", "a/b", "a/c"), "no kind of model", ""),
    ],
    ids=range(23),
)  # fmt: skip
def test_a_model_is_recognised(make, name, key, tmp_path):
    found = recognise(make(tmp_path))
    assert name in found.name
    assert found.key == key
    assert bool(found.fix) == (not key)


def test_a_wrong_format_is_told_with_the_right_one(tmp_path):
    assert wrong_format(written(tmp_path / "m.cbm", b"CBM1"), "catboost") == ""
    assert wrong_format(tmp_path / "m.cbm", "xgboost") == (
        "this is a CatBoost model, use {catboost: m.cbm}"
    )
    onnx = written(tmp_path / "m.onnx", b"\x08\x08")
    assert (
        wrong_format(onnx, "sklearn") == "this is an ONNX model, use the path alone: model: m.onnx"
    )
    weights = checkpoint(tmp_path / "w.pt")
    assert "save it with torch.export.save" in wrong_format(weights, "sklearn")
