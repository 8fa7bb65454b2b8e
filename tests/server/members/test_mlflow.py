"""MLflow's directories: which flavor is used, what opens it, and what is refused."""

import json
import pickle

import pytest
import yaml

from server.config.models import MlflowConfig
from server.errors import ConfigError
from server.members.mlflow import find_flavor
from tests.support.trained import boosted_people, people_pipeline, saved


def directory(path, flavors, **more):
    path.mkdir(exist_ok=True)
    (path / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors, **more}))
    return MlflowConfig(mlflow=path)


def refusal(config):
    with pytest.raises(ConfigError) as caught:
        find_flavor("members.a.model", config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


GENERIC = {"python_function": {"loader_module": "mlflow.sklearn"}}


def test_the_librarys_flavor_is_used(tmp_path):
    columns = [{"name": "sex", "type": "string"}, {"name": "age", "type": "double"}]
    flavors = {**GENERIC, "sklearn": {"pickled_model": "model.skops"}}
    config = directory(tmp_path / "a", flavors, signature={"inputs": json.dumps(columns)})
    saved(people_pipeline(), tmp_path / "a" / "model.skops")
    found = find_flavor("model", config)
    assert found.name == "sklearn"
    assert found.model.sklearn == tmp_path / "a" / "model.skops"
    assert found.args == {"types": {"sex": "BYTES", "age": "FP64"}}


def test_trust_is_passed_on(tmp_path):
    flavors = {**GENERIC, "sklearn": {"pickled_model": "model.pkl"}}
    config = directory(tmp_path / "a", flavors)
    (tmp_path / "a" / "model.pkl").write_bytes(pickle.dumps({}))
    assert find_flavor("model", config).model.trust_pickle is False
    trusting = MlflowConfig(mlflow=tmp_path / "a", trust_pickle=True)
    assert find_flavor("model", trusting).model.trust_pickle is True


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm"])
def test_trees(kind, tmp_path):
    name = {"xgboost": "model.ubj", "lightgbm": "model.lgb"}[kind]
    config = directory(tmp_path / "a", {kind: {"data": name}, **GENERIC})
    saved(boosted_people(kind), tmp_path / "a" / name)
    found = find_flavor("model", config)
    assert (found.model.key(), found.args) == (kind, {})


def test_a_file_for_a_backend(tmp_path):
    config = directory(tmp_path / "a", {"onnx": {"data": "model.onnx"}})
    (tmp_path / "a" / "model.onnx").write_bytes(b"\x08\x08")
    assert find_flavor("model", config).model == tmp_path / "a" / "model.onnx"


def test_what_is_refused(tmp_path):
    assert "has no file MLmodel" in refusal(MlflowConfig(mlflow=tmp_path))
    assert "names no flavors" in refusal(directory(tmp_path / "a", {}))
    only_generic = refusal(directory(tmp_path / "b", GENERIC))
    assert "python_function alone" in only_generic
    assert "mlflow.pyfunc.load_model" in only_generic
    gone = directory(tmp_path / "c", {"sklearn": {"pickled_model": "model.pkl"}})
    assert "name no file that is there" in refusal(gone)
    pickled = directory(tmp_path / "d", {"pytorch": {"model_data": "data"}})
    (tmp_path / "d" / "data").mkdir()
    (tmp_path / "d" / "data" / "model.pth").write_bytes(pickle.dumps({}))
    assert "save its model as ONNX or .pt2" in refusal(pickled)
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "MLmodel").write_text("- 1\n")
    assert "names no flavors" in refusal(MlflowConfig(mlflow=tmp_path / "e"))
