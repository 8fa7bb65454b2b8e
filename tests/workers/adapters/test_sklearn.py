"""scikit-learn's models: their columns and types, what they answer, and what is not opened."""

import sys
import types

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
from lightgbm import LGBMClassifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import LinearSVC
from xgboost import XGBClassifier

from tests.support.trained import (
    boosted_people,
    columns_of,
    diabetes,
    iris,
    people,
    people_pipeline,
    saved,
)
from workers.adapters import AdapterError
from workers.adapters.sklearn import SklearnModel
from workers.runtime.spec import TensorSpec

FRAME, CLASSES = people()
PEOPLE = people_pipeline()


def opened(model, tmp_path, name="model.skops", **options):
    path = tmp_path / name
    if path.suffix == ".skops":
        saved(model, path)
    else:
        joblib.dump(model, path)
    member = SklearnModel(path=str(path), **options)
    member.load("cpu")
    return member


def refusal(path, **options):
    with pytest.raises(AdapterError) as caught:
        SklearnModel(path=str(path), **options).load("cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def datatypes(member):
    return {name: described[0] for name, described in member.inputs.items()}


def test_a_pipeline_over_columns_takes_those_that_it_uses(tmp_path):
    member = opened(PEOPLE, tmp_path)
    assert datatypes(member) == {"sex": "BYTES", "age": "FP64", "deck": "FP64", "port": "BYTES"}
    assert member.inputs["sex"] == ("BYTES", (), 256)
    assert member.output["predict_proba"] == "probabilities"
    assert member.labels["predict_proba"] == ["no", "yes"]
    found = member.predict(**columns_of(FRAME))
    np.testing.assert_array_equal(found["predict_proba"], PEOPLE.predict_proba(FRAME))
    assert list(found) == ["predict_proba"]
    assert {name: list(one) for name, one in member.example.items()} == {
        "sex": [b"male"],
        "age": [0.0],
        "deck": [1],
        "port": ["Århus".encode()],
    }


def test_a_text_that_was_not_in_the_data_is_the_librarys_error(tmp_path):
    member = opened(PEOPLE, tmp_path)
    with pytest.raises(ValueError, match="unknown categories .*'none'"):
        member.predict(**columns_of(FRAME.assign(sex="none")))
    with pytest.raises(ValueError, match="'sex' is not text in UTF-8"):
        member.predict(**columns_of(FRAME) | {"sex": np.array([b"\xff"] * len(FRAME), object)})


def test_a_model_without_names_takes_a_matrix(tmp_path):
    x, y = iris()
    model = LogisticRegression(max_iter=500).fit(x, y)
    member = opened(model, tmp_path)
    assert member.inputs == {"x": ("FP64", (4,))}
    np.testing.assert_array_equal(member.predict(x=x)["predict_proba"], model.predict_proba(x))
    assert member.labels["predict_proba"] == ["0", "1", "2"]


@pytest.mark.parametrize("targets", [1, 3])
def test_a_regressor_gives_values(targets, tmp_path):
    x, y = diabetes()
    y = y if targets == 1 else np.stack([y, -y, y / 2], axis=1)
    model = Ridge().fit(x, y)
    member = opened(model, tmp_path)
    np.testing.assert_array_equal(member.predict(x=x)["predict"], model.predict(x))
    assert member.output == {}


def test_other_outputs_are_chosen_by_the_methods_name(tmp_path):
    found = opened(PEOPLE, tmp_path, outputs=("predict", "decision_function"))
    answers = found.predict(**columns_of(FRAME))
    assert found.output["predict"] == "class"
    labels = np.array(found.labels["predict"])
    assert (labels[answers["predict"]] == PEOPLE.predict(FRAME)).all()
    np.testing.assert_array_equal(answers["decision_function"], PEOPLE.decision_function(FRAME))
    path = tmp_path / "model.skops"
    assert "has no output 'transform'; it has: predict_proba, predict" in refusal(
        path, outputs=("transform",)
    )


def test_a_classifier_without_probabilities_asks_what_to_serve(tmp_path):
    x, y = iris()
    path = saved(LinearSVC().fit(x, y), tmp_path / "svc.skops")
    assert "gives no probabilities: choose by output_name" in refusal(path)
    member = SklearnModel(path=str(path), outputs=("decision_function",))
    member.load("cpu")
    assert member.predict(x=x)["decision_function"].shape == (150, 3)


def test_several_targets_are_several_outputs(tmp_path):
    x, y = iris()
    both = np.stack([y, y == 1], axis=1)
    model = RandomForestClassifier(n_estimators=3, random_state=0).fit(x, both)
    member = opened(model, tmp_path, outputs=("predict_proba_1",))
    found = member.predict(x=x)
    assert list(found) == ["predict_proba_0", "predict_proba_1"]
    np.testing.assert_array_equal(found["predict_proba_1"], model.predict_proba(x)[1])
    assert member.labels["predict_proba_1"] == ["0", "1"]


@pytest.mark.parametrize(
    "model", [KMeans(3, n_init=1), PCA(2), RandomForestRegressor(3)], ids=lambda one: str(one)[:5]
)
def test_what_is_no_classifier(model, tmp_path):
    x, y = iris()
    member = opened(model.fit(x, y), tmp_path)
    (name,) = member.predict(x=x)
    np.testing.assert_array_equal(member.predict(x=x)[name], getattr(model, name)(x))


def encoded(columns):
    return ColumnTransformer([("a", OneHotEncoder(handle_unknown="ignore"), columns)])


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (make_pipeline(encoded(["sex"]), LogisticRegression()), {"sex": "BYTES"}),
        (make_pipeline(encoded([0, 2]), LogisticRegression()), {"sex": "BYTES", "deck": "FP64"}),
        (
            make_pipeline(encoded(slice("deck", "port")), LogisticRegression()),
            {"deck": "FP64", "port": "BYTES"},
        ),
        (
            make_pipeline(encoded([True, False, True, False, False]), LogisticRegression()),
            {"sex": "BYTES", "deck": "FP64"},
        ),
        (
            make_pipeline(
                encoded(make_column_selector(dtype_include="number")), LogisticRegression()
            ),
            {"age": "FP64", "deck": "FP64"},
        ),
        (
            make_pipeline(
                ColumnTransformer([("t", TfidfVectorizer(), "name")]), LogisticRegression()
            ),
            {"name": "BYTES"},
        ),
        (
            make_pipeline(
                ColumnTransformer(
                    [("o", OrdinalEncoder(), ["sex"]), ("p", "passthrough", ["deck"])]
                ),
                HistGradientBoostingClassifier(max_iter=2),
            ),
            {"sex": "BYTES", "deck": "FP64"},
        ),
        (
            make_pipeline(
                FeatureUnion([("a", encoded(["sex"])), ("b", encoded(["port"]))]),
                LogisticRegression(),
            ),
            {"sex": "BYTES", "port": "BYTES"},
        ),
        (
            GridSearchCV(
                make_pipeline(encoded(["sex"]), LogisticRegression()),
                {"logisticregression__C": [1.0]},
                cv=2,
            ),
            {"sex": "BYTES"},
        ),
        (
            CalibratedClassifierCV(make_pipeline(encoded(["port"]), LogisticRegression()), cv=2),
            {"port": "BYTES"},
        ),
        (
            VotingClassifier(
                [
                    ("a", make_pipeline(encoded(["sex"]), LogisticRegression())),
                    ("b", make_pipeline(encoded(["deck"]), LogisticRegression())),
                ],
                voting="soft",
            ),
            {"sex": "BYTES", "deck": "FP64"},
        ),
    ],
    ids=range(11),
)
def test_types_of_columns_come_from_the_encoders(model, expected, tmp_path):
    model.fit(FRAME, CLASSES)
    member = opened(model, tmp_path, "model.joblib", trust_pickle=True)
    assert datatypes(member) == expected
    used = {name: one for name, one in columns_of(FRAME).items() if name in expected}
    found = member.predict(**used)["predict_proba"]
    np.testing.assert_array_equal(found, model.predict_proba(FRAME))


def test_boosting_that_encodes_categories_itself(tmp_path):
    table = FRAME.drop(columns="name")
    categories = table.astype({"sex": "category", "port": "category"})
    model = HistGradientBoostingClassifier(max_iter=3, categorical_features="from_dtype")
    member = opened(model.fit(categories, CLASSES), tmp_path)
    assert datatypes(member) == {"sex": "BYTES", "age": "FP64", "deck": "FP64", "port": "BYTES"}
    found = member.predict(**columns_of(table))["predict_proba"]
    np.testing.assert_array_equal(found, model.predict_proba(categories))


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm"])
def test_categories_of_another_library_need_its_own_file(kind, tmp_path):
    path = tmp_path / "model.pkl"
    joblib.dump(boosted_people(kind), path)
    text = refusal(path, trust_pickle=True)
    assert f"use {{{kind}: FILE}}" in text
    x, y = iris()
    joblib.dump(
        {"xgboost": XGBClassifier, "lightgbm": LGBMClassifier}[kind](
            n_estimators=2, verbosity=-1 if kind == "lightgbm" else 0
        ).fit(x, y),
        path,
    )
    member = SklearnModel(path=str(path), trust_pickle=True)
    member.load("cpu")
    assert member.predict(x=x)["predict_proba"].shape == (150, 3)


def test_numbers_alone_are_columns_with_the_names_of_the_frame(tmp_path):
    x, y = iris(as_frame=True)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
    member = opened(model, tmp_path)
    assert set(member.inputs) == set(x.columns)
    found = member.predict(**columns_of(x))
    np.testing.assert_array_equal(found["predict_proba"], model.predict_proba(x))


def lengths(frame):
    return frame.map(lambda value: len(str(value)))


def test_a_type_that_is_not_known_is_asked_for(tmp_path):
    columns = ColumnTransformer([("f", FunctionTransformer(lengths), ["sex", "age"])])
    model = make_pipeline(columns, LogisticRegression()).fit(FRAME, CLASSES)
    path = tmp_path / "model.joblib"
    joblib.dump(model, path)
    text = refusal(path, trust_pickle=True)
    assert "does not tell whether 'sex', 'age' are text or numbers: declare each" in text
    assert "sex: {datatype: BYTES, shape: []}" in text
    declared = {"sex": TensorSpec("sex", "BYTES", ()), "age": TensorSpec("age", "FP64", ())}
    member = opened(model, tmp_path, "model.joblib", trust_pickle=True, declared=declared)
    used = columns_of(FRAME[["sex", "age"]])
    np.testing.assert_array_equal(
        member.predict(**used)["predict_proba"], model.predict_proba(FRAME)
    )


def test_declared_types_take_precedence(tmp_path):
    deck = {"deck": TensorSpec("deck", "INT32", ())}
    assert datatypes(opened(PEOPLE, tmp_path, declared=deck))["deck"] == "INT32"
    assert datatypes(opened(PEOPLE, tmp_path, types={"age": "FP32"}))["age"] == "FP64"


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "no-suffix"])
def test_a_pickle_is_refused_unless_it_is_trusted(name, tmp_path):
    path = tmp_path / name
    joblib.dump(PEOPLE, path)
    text = refusal(path)
    assert "is a pickle, which can run any code" in text
    assert "skops.io.dump" in text
    assert "ONNX" in text
    assert "trust_pickle: true" in text
    member = SklearnModel(path=str(path), trust_pickle=True)
    member.load("cpu")
    found = member.predict(**columns_of(FRAME))["predict_proba"]
    np.testing.assert_array_equal(found, PEOPLE.predict_proba(FRAME))


@pytest.mark.parametrize("compression", ["zlib", "gzip", "bz2", "lzma"])
def test_a_compressed_pickle_is_one_too(compression, tmp_path):
    path = tmp_path / "model.bin"
    joblib.dump(PEOPLE, path, compress=(compression, 3))
    assert "is a pickle" in refusal(path)


def test_a_pickle_is_not_run_before_it_is_trusted(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (marker.touch, ())

    path = tmp_path / "model.pkl"
    joblib.dump(Evil(), path)
    refusal(path)
    assert not marker.exists()
    assert "can't be loaded" in refusal(path, trust_pickle=True) or marker.exists()


def test_a_pickle_without_its_module_names_it(tmp_path, monkeypatch):
    module = types.ModuleType("their_features")
    exec_lengths = FunctionTransformer(lengths)
    module.lengths = lengths
    monkeypatch.setattr(lengths, "__module__", "their_features")
    monkeypatch.setitem(sys.modules, "their_features", module)
    path = tmp_path / "model.pkl"
    joblib.dump(exec_lengths.fit(FRAME), path)
    monkeypatch.delitem(sys.modules, "their_features")
    assert "needs the module their_features" in refusal(path, trust_pickle=True)


def test_a_skops_file_with_other_code_is_refused(tmp_path):
    columns = ColumnTransformer([("f", FunctionTransformer(lengths), ["sex"])])
    model = make_pipeline(columns, LogisticRegression()).fit(FRAME, CLASSES)
    path = saved(model, tmp_path / "model.skops")
    text = refusal(path)
    assert "test_sklearn.lengths" in text
    assert "trust_pickle: true" in text
    declared = {"sex": TensorSpec("sex", "BYTES", ())}
    member = SklearnModel(path=str(path), trust_pickle=True, declared=declared)
    member.load("cpu")


def test_a_skops_file_with_ufuncs_and_trees_needs_no_trust(tmp_path):
    x, y = iris(as_frame=True)
    model = make_pipeline(
        FunctionTransformer(np.log1p), HistGradientBoostingClassifier(max_iter=2)
    ).fit(x, y)
    member = opened(model, tmp_path)
    found = member.predict(**columns_of(x))["predict_proba"]
    np.testing.assert_array_equal(found, model.predict_proba(x))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"not": "a model"}, "holds builtins.dict, which has none of the methods predict_proba"),
        (LogisticRegression(), "the LogisticRegression in it is not fitted"),
    ],
)
def test_what_is_no_fitted_model_is_refused(content, expected, tmp_path):
    path = tmp_path / "model.pkl"
    joblib.dump(content, path)
    assert expected in refusal(path, trust_pickle=True)


def test_a_damaged_skops_file_is_refused(tmp_path):
    path = saved(PEOPLE, tmp_path / "model.skops")
    path.write_bytes(path.read_bytes()[:2000])
    assert "damaged or truncated archive: copy it again" in refusal(path)


def test_the_file_of_another_library_names_its_door(tmp_path):
    path = tmp_path / "model.skops"
    path.write_bytes(b"tree\nversion=v4\n")
    assert refusal(path) == "this is a LightGBM model, use {lightgbm: model.skops}"


def test_a_frame_has_the_types_of_pandas_own(tmp_path):
    """What the pipeline sees is what `pandas.DataFrame` makes of the client's lists."""
    member = opened(PEOPLE, tmp_path)
    rows = member._table.frame(columns_of(FRAME))
    listed = pd.DataFrame({name: FRAME[name].tolist() for name in member.inputs})
    assert (rows.dtypes == listed.dtypes).all()
    assert skops.io.__name__  # the library is there
