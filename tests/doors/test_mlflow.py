"""Directories that MLflow itself writes, served: equal to what the model in them answers."""

import lightgbm
import numpy as np
import pytest
import torch
import xgboost
from sklearn.linear_model import LogisticRegression

from server.config.models import MlflowConfig
from server.errors import ConfigError
from server.members.mlflow import find_flavor
from tests.doors.asking import answers, served
from tests.support.trained import iris

mlflow = pytest.importorskip("mlflow")
pytestmark = pytest.mark.filterwarnings("ignore")

X, Y = iris(as_frame=True)
ROWS = 9
SKLEARN = LogisticRegression(max_iter=500).fit(X, Y)
XGBOOST = xgboost.XGBClassifier(n_estimators=3).fit(X, Y)
LIGHTGBM = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(X, Y)
OPTIONS = {"pip_requirements": []}


def saved(path):
    """A directory of each flavor, and what the model in it answers."""
    from mlflow.models import infer_signature

    signature = infer_signature(X, Y)
    options = {"signature": signature, **OPTIONS}
    for name, how in (("skops", "skops"), ("pickled", "cloudpickle")):
        mlflow.sklearn.save_model(SKLEARN, path / name, serialization_format=how, **options)
    mlflow.xgboost.save_model(XGBOOST, path / "xgboost", **options)
    mlflow.lightgbm.save_model(LIGHTGBM, path / "lightgbm", **options)
    mlflow.lightgbm.save_model(LIGHTGBM.booster_, path / "booster", **options)
    module = torch.nn.Linear(4, 2)
    example = X.to_numpy(np.float32)[:2]
    mlflow.pytorch.save_model(module, path / "torch", input_example=example, **OPTIONS)
    return {
        "skops": SKLEARN.predict_proba(X),
        "pickled": SKLEARN.predict_proba(X),
        "xgboost": XGBOOST.predict_proba(X),
        "lightgbm": LIGHTGBM.predict_proba(X),
        "booster": LIGHTGBM.predict_proba(X),
        "torch": module(torch.from_numpy(X.to_numpy(np.float32))).detach().numpy(),
    }


@pytest.mark.process
def test_members(tmp_path):
    expected = saved(tmp_path)
    members = {name: {"model": {"mlflow": str(tmp_path / name)}} for name in expected}
    members["pickled"]["model"]["trust_pickle"] = True
    columns = {name: X[name].to_numpy()[:ROWS] for name in X}
    with served(members, tmp_path) as server:
        for name, probabilities in expected.items():
            inputs = server.client.get(f"/v2/models/{name}").json()["inputs"]
            given = dict(zip((one["name"] for one in inputs), columns.values(), strict=False))
            if name == "torch":
                given = X.to_numpy(np.float32)[:ROWS]
            found = answers(server, name, given)
            np.testing.assert_allclose(found, probabilities[:ROWS], rtol=1e-6, err_msg=name)


def test_what_only_mlflow_can_run_is_refused(tmp_path):
    class Model(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input):
            return model_input

    mlflow.pyfunc.save_model(tmp_path / "py", python_model=Model(), **OPTIONS)
    with pytest.raises(ConfigError, match="python_function alone, whose code only MLflow can run"):
        find_flavor("model", MlflowConfig(mlflow=tmp_path / "py"))
    mlflow.pytorch.save_model(
        torch.nn.Linear(2, 2), tmp_path / "pth", serialization_format="pickle", **OPTIONS
    )
    with pytest.raises(ConfigError, match="checkpoint of torch.save: save it with torch.export"):
        find_flavor("model", MlflowConfig(mlflow=tmp_path / "pth"))
