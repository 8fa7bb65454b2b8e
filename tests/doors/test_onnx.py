"""ONNX files of skl2onnx and onnxmltools, with ZipMap and columns, served as they are."""

import lightgbm
import numpy as np
import pytest
import xgboost
from sklearn.linear_model import LogisticRegression

from tests.doors.asking import answers, served
from tests.support.trained import iris

skl2onnx = pytest.importorskip("skl2onnx")
onnxmltools = pytest.importorskip("onnxmltools")

X, Y = iris()
ROWS = 9
NAMES = np.array(["setosa", "versicolor", "virginica"])


def exported(path):
    """Files with ZipMap (scikit-learn's default) and without, and what their models answer."""
    from onnxmltools.convert.common.data_types import FloatTensorType

    kinds = [("x", FloatTensorType([None, 4]))]
    sklearn = LogisticRegression(max_iter=500).fit(X, NAMES[Y])
    with_map = skl2onnx.to_onnx(sklearn, X[:1].astype(np.float32), target_opset=15)
    (path / "zipmap.onnx").write_bytes(with_map.SerializeToString())
    xgb = xgboost.XGBClassifier(n_estimators=3, base_score=0.5).fit(X, Y)
    converted = onnxmltools.convert_xgboost(xgb, initial_types=kinds, target_opset=15)
    (path / "xgboost.onnx").write_bytes(converted.SerializeToString())
    lgb = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(X, Y)
    converted = onnxmltools.convert_lightgbm(lgb, initial_types=kinds, target_opset=15)
    (path / "lightgbm.onnx").write_bytes(converted.SerializeToString())
    return {
        "zipmap": sklearn.predict_proba(X),
        "xgboost": xgb.predict_proba(X),
        "lightgbm": lgb.predict_proba(X),
    }


@pytest.mark.process
def test_members(tmp_path):
    expected = exported(tmp_path)
    members = {name: {"model": str(tmp_path / f"{name}.onnx")} for name in expected}
    members["xgboost"] |= {"output_name": "probabilities", "output": "probabilities"}
    with served(members, tmp_path) as server:
        for name, probabilities in expected.items():
            found = answers(server, name, X[:ROWS])
            np.testing.assert_allclose(found, probabilities[:ROWS], atol=1e-5, err_msg=name)
        described = str(server.client.get("/v2/models/zipmap/config").json())
    assert "virginica" in described
