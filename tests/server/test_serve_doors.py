"""Models of other libraries, served: answers equal the library's own, however they are asked."""

import asyncio
import json
import struct

import joblib
import lightgbm
import numpy as np
import onnx
import pytest
import xgboost
import yaml
from ensembled_client import AsyncEnsembleClient, EnsembleClient, ServerFailure
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.support.serving import configuration, running
from tests.support.trained import (
    boosted_people,
    diabetes,
    iris,
    people,
    people_pipeline,
    saved,
)

pytestmark = pytest.mark.process

X, Y = iris()
X32 = X.astype(np.float32)
NAMED_X, NAMED_Y = diabetes(as_frame=True)
SKLEARN = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
XGBOOST = xgboost.XGBClassifier(n_estimators=4).fit(X, Y)
LIGHTGBM = lightgbm.LGBMClassifier(n_estimators=4, verbose=-1).fit(X, Y)
REGRESSOR = xgboost.XGBRegressor(n_estimators=4).fit(NAMED_X, NAMED_Y)
NAMED_IRIS = iris(as_frame=True)[0]
NAMED_SKLEARN = LogisticRegression(max_iter=500).fit(NAMED_IRIS, Y)
PEOPLE = people()[0].drop(columns="name")
PIPELINE = people_pipeline()
BOOSTED = {kind: boosted_people(kind) for kind in ("xgboost", "lightgbm")}
ROWS = slice(1, 7)
TABLE = ["people", "xgb_people", "lgb_people"]
FP32 = {"inputs": {"x": {"datatype": "FP32"}}}


def exported(path):
    """The logistic regression without its scaler, as ONNX: x FP32 [n, 4] -> probabilities."""
    model = LogisticRegression(max_iter=500).fit(X, Y)
    weights = [
        numpy_helper.from_array(model.coef_.T.astype(np.float32), "w"),
        numpy_helper.from_array(model.intercept_.astype(np.float32), "b"),
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["z"]),
        helper.make_node("Softmax", ["z"], ["p"], axis=1),
    ]
    sizes = {"x": 4, "p": 3}
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
        for name, size in sizes.items()
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def mlflow_directory(path, flavor, options, model):
    """A directory as MLflow writes it, around a model file."""
    path.mkdir()
    saved(model, path / options["file"])
    flavors = {flavor: {options["key"]: options["file"]}, "python_function": {}}
    columns = [{"name": name, "type": "double"} for name in NAMED_IRIS]
    document = {"flavors": flavors, "signature": {"inputs": json.dumps(columns)}}
    (path / "MLmodel").write_text(yaml.safe_dump(document))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("doors")
    saved(SKLEARN, directory / "iris.skops")
    saved(XGBOOST, directory / "iris.json")
    saved(LIGHTGBM, directory / "iris.txt")
    saved(REGRESSOR, directory / "diabetes.ubj")
    joblib.dump(SKLEARN, directory / "iris.joblib")
    exported(directory / "iris.onnx")
    saved(PIPELINE, directory / "people.skops")
    saved(BOOSTED["xgboost"], directory / "people.json")
    saved(BOOSTED["lightgbm"], directory / "people.txt")
    skops = {"key": "pickled_model", "file": "model.skops"}
    mlflow_directory(directory / "by_mlflow", "sklearn", skops, NAMED_SKLEARN)
    ubj = {"key": "data", "file": "model.ubj"}
    mlflow_directory(directory / "xgb_by_mlflow", "xgboost", ubj, XGBOOST)
    members = {
        "sklearn": {"model": {"sklearn": "iris.skops"}, **FP32},
        "xgboost": {"model": {"xgboost": "iris.json"}, **FP32},
        "lightgbm": {"model": {"lightgbm": "iris.txt"}, **FP32},
        "onnx": {"model": "iris.onnx", "output": "probabilities"},
        "regressor": {"model": {"xgboost": "diabetes.ubj"}},
        "pickled": {"model": {"sklearn": "iris.joblib", "trust_pickle": True}},
        "by_mlflow": {"model": {"mlflow": "by_mlflow"}},
        "xgb_by_mlflow": {"model": {"mlflow": "xgb_by_mlflow"}},
        "people": {"model": {"sklearn": "people.skops"}},
        "xgb_people": {"model": {"xgboost": "people.json"}},
        "lgb_people": {"model": {"lightgbm": "people.txt"}},
        "chosen": {"model": {"sklearn": "iris.skops"}, "output_name": "predict"},
    }
    mixed = {"members": ["sklearn", "xgboost", "lightgbm", "onnx"], "rule": "mean"}
    members = {name: {"batch_size": 8, **one} for name, one in members.items()}
    config = configuration(members, where=dict.fromkeys(members, 0))
    config["ensembles"] = {"mixed": mixed, "table": {"members": TABLE}}
    with running(config, directory) as started:
        yield started


def columns(frame):
    return {str(name): frame[name].tolist()[ROWS] for name in frame}


def expected(model):
    if model == "table":
        return np.mean([expected(one) for one in TABLE], axis=0)
    return {
        "sklearn": lambda: SKLEARN.predict_proba(X32.astype(np.float64)),
        "xgboost": lambda: XGBOOST.predict_proba(X),
        "lightgbm": lambda: LIGHTGBM.predict_proba(X32.astype(np.float64)),
        "regressor": lambda: REGRESSOR.predict(NAMED_X),
        "pickled": lambda: SKLEARN.predict_proba(X),
        "by_mlflow": lambda: NAMED_SKLEARN.predict_proba(NAMED_IRIS),
        "xgb_by_mlflow": lambda: XGBOOST.predict_proba(X),
        "people": lambda: PIPELINE.predict_proba(people()[0]),
        "xgb_people": lambda: BOOSTED["xgboost"].predict_proba(categorical()),
        "lgb_people": lambda: BOOSTED["lightgbm"].predict_proba(categorical()),
        "chosen": lambda: np.eye(3)[SKLEARN.predict(X)],
    }[model]()[ROWS]


def categorical():
    return PEOPLE.astype({"sex": "category", "port": "category"})


def asked(model):
    """The inputs of a request, by name."""
    frames = {"regressor": NAMED_X, "by_mlflow": NAMED_IRIS, "table": PEOPLE}
    frames |= dict.fromkeys(TABLE, PEOPLE)
    return columns(frames[model]) if model in frames else {"x": X[ROWS]}


MODELS = pytest.mark.parametrize(
    "model",
    ["sklearn", "xgboost", "lightgbm", "regressor", "pickled", "by_mlflow", "xgb_by_mlflow",
     "chosen", *TABLE, "table"],
)  # fmt: skip


@MODELS
def test_every_client_gets_what_the_library_answers(model, server):
    for url in (server.url, f"grpc://{server.grpc}"):
        with EnsembleClient(url) as client:
            found = client.predict(model, asked(model)).values
        np.testing.assert_array_equal(found, expected(model))


def test_the_asynchronous_client_gets_it_too(server):
    async def predict():
        async with AsyncEnsembleClient(server.url) as client:
            return (await client.predict("by_mlflow", asked("by_mlflow"))).values

    np.testing.assert_array_equal(asyncio.run(predict()), expected("by_mlflow"))


def as_binary(values, datatype):
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(one.encode())) + one.encode() for one in values)
    return np.asarray(values, {"FP32": np.float32, "FP64": np.float64}[datatype]).tobytes()


@MODELS
@pytest.mark.parametrize("binary", [False, True])
def test_json_and_binary_requests(model, binary, server):
    metadata = server.client.get(f"/v2/models/{model}").json()
    types = {one["name"]: one["datatype"] for one in metadata["inputs"]}
    tensors, content = [], b""
    for name, given in asked(model).items():
        tensor = {"name": name, "datatype": types[name], "shape": np.shape(given)}
        if binary:
            encoded = as_binary(given, types[name])
            tensor["parameters"] = {"binary_data_size": len(encoded)}
            content += encoded
        else:
            tensor["data"] = np.ravel(given).tolist()
        tensors.append(tensor)
    document = {"inputs": tensors, "parameters": {"binary_data_output": binary}}
    head = json.dumps(document).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))} if binary else {}
    answer = server.client.post(f"/v2/models/{model}/infer", head + content, headers)
    np.testing.assert_array_equal(answer.values, expected(model).astype(answer.values.dtype))


def test_an_ensemble_of_four_libraries_is_the_mean_of_them(server):
    members = [expected(name) for name in ("sklearn", "xgboost", "lightgbm")]
    onnx_answer = server.predict("onnx", X32[ROWS]).values
    mean = np.mean([*members, onnx_answer], axis=0)
    answer = server.predict("mixed", X32[ROWS])
    np.testing.assert_allclose(answer.values, mean, atol=1e-6)
    assert answer.members == ["sklearn", "xgboost", "lightgbm", "onnx"]
    with EnsembleClient(server.url) as client:
        (best, *_), *_ = client.classify("mixed", X32[ROWS], top=1)
    assert best[0] in {"0", "1", "2"}


def test_metadata_names_columns_and_labels(server):
    metadata = server.client.get("/v2/models/by_mlflow").json()
    assert [(one["name"], one["datatype"], one["shape"]) for one in metadata["inputs"]] == [
        (name, "FP64", [-1]) for name in NAMED_IRIS
    ]


def test_a_missing_number_is_nan(server):
    rows = {name: PEOPLE[name].tolist()[:9] for name in PEOPLE}
    assert np.isnan(rows["age"]).sum() == 2
    with EnsembleClient(server.url) as client:
        found = client.predict("people", rows).values
    np.testing.assert_array_equal(found, PIPELINE.predict_proba(people()[0][:9]))


def test_a_text_that_the_encoder_refuses_fails_its_row_alone(server):
    rows = {name: PEOPLE[name].tolist()[ROWS] for name in PEOPLE}
    rows["port"][2] = "Atlantis"
    with EnsembleClient(server.url) as client:
        with pytest.raises(ServerFailure, match="Atlantis"):
            client.predict("people", rows)
        found = client.predict("table", asked("table")).values
    np.testing.assert_array_equal(found, expected("table"))
