"""CatBoost's models, served: equal to what CatBoost answers."""

import numpy as np
import pytest

from tests.doors.asking import answers, served
from tests.support.trained import cancer, columns_of, diabetes, iris, people
from workers.adapters import AdapterError

catboost = pytest.importorskip("catboost")

OPTIONS = {"iterations": 5, "verbose": 0, "allow_writing_files": False, "thread_count": 1}
FRAME = people()[0].drop(columns="name")
CATEGORIES = ["sex", "port"]
SURVIVED = catboost.CatBoostClassifier(cat_features=CATEGORIES, **OPTIONS).fit(FRAME, people()[1])
ROWS = 9


def opened(path, **options):
    from workers.adapters.catboost import CatboostModel

    member = CatboostModel(path=str(path), **options)
    member.load("cpu")
    return member


@pytest.mark.parametrize("data", [iris, cancer])
def test_classifiers(data, tmp_path):
    x, y = data()
    model = catboost.CatBoostClassifier(**OPTIONS).fit(x, y)
    model.save_model(str(tmp_path / "m.cbm"))
    member = opened(tmp_path / "m.cbm")
    assert member.inputs == {"x": ("FP64", (x.shape[1],))}
    x = x.astype(np.float32)
    np.testing.assert_array_equal(member.predict(x=x), model.predict_proba(x))
    assert member.labels == [str(one) for one in model.classes_]


def test_regressors(tmp_path):
    x, y = diabetes()
    for name, loss, targets in (
        ("one", "RMSE", y),
        ("two", "MultiRMSE", np.stack([y, -y], axis=1)),
        ("both", "RMSEWithUncertainty", y),
    ):
        model = catboost.CatBoostRegressor(loss_function=loss, **OPTIONS).fit(x, targets)
        model.save_model(str(tmp_path / f"{name}.cbm"))
        x32 = x.astype(np.float32)
        kind = {"prediction_type": loss} if name == "both" else {}
        expected = model.predict(x32, **kind)
        np.testing.assert_array_equal(opened(tmp_path / f"{name}.cbm").predict(x=x32), expected)


def test_categories_may_be_numbers_where_the_configuration_says_so(tmp_path):
    from workers.runtime.spec import TensorSpec

    model = catboost.CatBoostClassifier(cat_features=["deck"], **OPTIONS)
    model.fit(FRAME[["deck", "age"]], people()[1])
    model.save_model(str(tmp_path / "m.cbm"))
    expected = model.predict_proba(FRAME[["deck", "age"]])
    texts = FRAME[["deck", "age"]].assign(deck=FRAME["deck"].astype(str))
    member = opened(tmp_path / "m.cbm")
    np.testing.assert_array_equal(member.predict(**columns_of(texts)), expected)
    numbers = opened(tmp_path / "m.cbm", declared={"deck": TensorSpec("deck", "INT64", ())})
    np.testing.assert_array_equal(numbers.predict(**columns_of(FRAME[["deck", "age"]])), expected)


def test_a_damaged_file_is_refused(tmp_path):
    SURVIVED.save_model(str(tmp_path / "m.cbm"))
    content = (tmp_path / "m.cbm").read_bytes()
    (tmp_path / "m.cbm").write_bytes(content[:500])
    with pytest.raises(AdapterError, match="CatBoost .* can't load it"):
        opened(tmp_path / "m.cbm")


@pytest.mark.process
def test_a_member_with_categories(tmp_path):
    SURVIVED.save_model(str(tmp_path / "m.cbm"))
    members = {"people": {"model": {"catboost": str(tmp_path / "m.cbm")}}}
    with served(members, tmp_path) as server:
        found = answers(server, "people", {name: FRAME[name][:ROWS].tolist() for name in FRAME})
    np.testing.assert_array_equal(found, SURVIVED.predict_proba(FRAME[:ROWS]))
