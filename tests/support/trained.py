"""Small models of scikit-learn, XGBoost and LightGBM, trained here on data that they ship.

`people` is a made table with texts and numbers, as of a ship's passengers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import skops.io
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

ROWS = 160


def people() -> tuple[pd.DataFrame, np.ndarray]:
    """A table with texts, whole numbers, fractions and missing ones, and a text per row."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "sex": random.choice(["female", "male"], ROWS),
            "age": random.uniform(1, 80, ROWS),
            "deck": random.integers(1, 4, ROWS),
            "port": random.choice(["Århus", "Cork", "Southampton"], ROWS),
            "name": [f"passenger {i}" for i in range(ROWS)],
        }
    )
    frame.loc[::7, "age"] = np.nan
    survived = (frame["sex"] == "female") ^ (random.random(ROWS) < 0.2)
    return frame, np.where(survived, "yes", "no")


def people_pipeline(final: Any = None) -> Pipeline:
    """A pipeline over named columns: an encoder that refuses unknown texts, numbers, one unused."""
    columns = ColumnTransformer(
        [
            (
                "texts",
                make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()),
                ["sex", "port"],
            ),
            ("deck", OneHotEncoder(), ["deck"]),
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age"]),
        ]
    )
    frame, classes = people()
    return make_pipeline(columns, final or LogisticRegression()).fit(frame, classes)


def saved(model: Any, path: Path) -> Path:
    """Save a model as its library does, by the suffix of the path."""
    if path.suffix == ".skops":
        skops.io.dump(model, path)
    elif isinstance(model, lightgbm.LGBMModel):
        model.booster_.save_model(path)
    else:
        model.save_model(path)
    return path


def iris(*, as_frame: bool = False) -> tuple[Any, Any]:
    return load_iris(return_X_y=True, as_frame=as_frame)


def cancer(*, as_frame: bool = False) -> tuple[Any, Any]:
    return load_breast_cancer(return_X_y=True, as_frame=as_frame)


def diabetes(*, as_frame: bool = False) -> tuple[Any, Any]:
    return load_diabetes(return_X_y=True, as_frame=as_frame)


def boosted_people(kind: str) -> Any:
    """XGBoost's or LightGBM's classifier on the table, with categories."""
    frame, classes = people()
    table = frame.drop(columns="name").astype({"sex": "category", "port": "category"})
    targets = (classes == "yes").astype(int)
    if kind == "xgboost":
        return xgboost.XGBClassifier(n_estimators=4, enable_categorical=True).fit(table, targets)
    return lightgbm.LGBMClassifier(n_estimators=4, verbose=-1).fit(table, targets)


def columns_of(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """The columns as a member gets them: texts as bytes."""
    return {
        str(name): frame[name].to_numpy()
        if frame[name].dtype.kind in "ifb"
        else np.array([str(text).encode() for text in frame[name]], object)
        for name in frame
    }
