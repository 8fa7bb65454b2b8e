"""XGBoost's and LightGBM's models: equal to what the libraries' classifiers answer."""

import lightgbm
import numpy as np
import pytest
import xgboost

from tests.support.trained import (
    boosted_people,
    cancer,
    columns_of,
    diabetes,
    iris,
    people,
    saved,
)
from workers.adapters import AdapterError
from workers.adapters.lightgbm import LightgbmModel
from workers.adapters.xgboost import XgboostModel

ADAPTERS = {"xgboost": XgboostModel, "lightgbm": LightgbmModel}
CLASSIFIERS = {"xgboost": xgboost.XGBClassifier, "lightgbm": lightgbm.LGBMClassifier}
REGRESSORS = {"xgboost": xgboost.XGBRegressor, "lightgbm": lightgbm.LGBMRegressor}
SUFFIXES = {"xgboost": [".json", ".ubj"], "lightgbm": [".txt"]}
BOTH = pytest.mark.parametrize("kind", ["xgboost", "lightgbm"])


def opened(kind, path):
    member = ADAPTERS[kind](path=str(path))
    member.load("cpu")
    return member


def refusal(kind, path):
    with pytest.raises(AdapterError) as caught:
        opened(kind, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@BOTH
@pytest.mark.parametrize("data", [iris, cancer])
def test_a_classifier_gives_a_probability_per_class(kind, data, tmp_path):
    x, y = data()
    model = CLASSIFIERS[kind](n_estimators=4, verbosity=0).fit(x, y)
    for suffix in SUFFIXES[kind]:
        member = opened(kind, saved(model, tmp_path / f"model{suffix}"))
        assert member.inputs == {"x": ("FP64", (x.shape[1],))}
        found = member.predict(x=x)
        np.testing.assert_array_equal(found, model.predict_proba(x))
        assert member.output == "probabilities"


@BOTH
def test_a_regressor_over_named_columns_gives_values(kind, tmp_path):
    x, y = diabetes(as_frame=True)
    model = REGRESSORS[kind](n_estimators=4, verbosity=0).fit(x, y)
    member = opened(kind, saved(model, tmp_path / f"model{SUFFIXES[kind][0]}"))
    assert list(member.inputs) == list(x.columns)
    found = member.predict(**columns_of(x))
    np.testing.assert_array_equal(found, model.predict(x))
    assert member.output == "values"


@BOTH
def test_categories_are_texts(kind, tmp_path):
    frame, _ = people()
    model = boosted_people(kind)
    member = opened(kind, saved(model, tmp_path / f"model{SUFFIXES[kind][0]}"))
    assert {name: one[0] for name, one in member.inputs.items()} == {
        "sex": "BYTES",
        "age": "FP64",
        "deck": "FP64",
        "port": "BYTES",
    }
    table = frame.drop(columns="name")
    found = member.predict(**columns_of(table))
    expected = model.predict_proba(table.astype({"sex": "category", "port": "category"}))
    np.testing.assert_array_equal(found, expected)
    one = member.predict(**columns_of(table[:1]))
    np.testing.assert_array_equal(one, expected[:1])


@BOTH
def test_a_missing_number_is_one(kind, tmp_path):
    x, y = iris()
    x = np.where(np.arange(x.size).reshape(x.shape) % 7 == 0, np.nan, x)
    model = CLASSIFIERS[kind](n_estimators=4, verbosity=0).fit(x, y)
    member = opened(kind, saved(model, tmp_path / f"model{SUFFIXES[kind][0]}"))
    np.testing.assert_array_equal(member.predict(x=x), model.predict_proba(x))


def test_xgboost_with_several_targets_and_hard_classes(tmp_path):
    x, y = diabetes()
    model = xgboost.XGBRegressor(n_estimators=3).fit(x, np.stack([y, -y], axis=1))
    member = opened("xgboost", saved(model, tmp_path / "two.json"))
    np.testing.assert_array_equal(member.predict(x=x), model.predict(x))
    x, y = iris()
    model = xgboost.XGBClassifier(n_estimators=3, objective="multi:softmax").fit(x, y)
    member = opened("xgboost", saved(model, tmp_path / "hard.json"))
    np.testing.assert_allclose(member.predict(x=x), model.predict_proba(x), rtol=1e-6)


def test_xgboost_uses_the_trees_up_to_the_best(tmp_path):
    x, y = cancer()
    model = xgboost.XGBClassifier(n_estimators=60, early_stopping_rounds=2, learning_rate=1.0)
    model.fit(x[:300], y[:300], eval_set=[(x[300:], y[300:])], verbose=False)
    assert model.best_iteration < model.get_booster().num_boosted_rounds() - 1
    member = opened("xgboost", saved(model, tmp_path / "early.json"))
    np.testing.assert_array_equal(member.predict(x=x), model.predict_proba(x))


def test_xgboost_names_an_unknown_category(tmp_path):
    frame, _ = people()
    member = opened("xgboost", saved(boosted_people("xgboost"), tmp_path / "model.json"))
    with pytest.raises(Exception, match="'sex' has no category 'none'"):
        member.predict(**columns_of(frame.drop(columns="name").assign(sex="none")))


@BOTH
def test_a_damaged_file_is_refused(kind, tmp_path):
    x, y = iris()
    model = CLASSIFIERS[kind](n_estimators=2, verbosity=0).fit(x, y)
    for suffix in SUFFIXES[kind]:
        path = saved(model, tmp_path / f"model{suffix}")
        path.write_bytes(path.read_bytes()[:600])
        text = refusal(kind, path)
        assert "truncated" in text or "can't load it" in text
        assert "Stack trace" not in text


@BOTH
def test_another_librarys_file_names_its_door(kind, tmp_path):
    path = tmp_path / "m.bin"
    path.write_bytes(b"CBM1" + bytes(20))
    assert refusal(kind, path) == "this is a CatBoost model, use {catboost: m.bin}"
