"""Keras' models, served: equal to what Keras answers."""

import os

import numpy as np
import pytest

from tests.doors.asking import answers, served

os.environ["KERAS_BACKEND"] = "torch"
keras = pytest.importorskip("keras")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

RANDOM = np.random.default_rng(0)
X = RANDOM.random((6, 4)).astype(np.float32)
PIXELS = RANDOM.random((6, 8, 8, 3)).astype(np.float32)


def sequential():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((4,), name="features"),
            layers.Dense(8, activation="relu"),
            layers.Dense(3, activation="softmax", name="species"),
        ]
    )


def two_ended(*, by_name):
    layers = keras.layers
    pixels, features = keras.Input((8, 8, 3), name="pixels"), keras.Input((4,), name="features")
    joined = layers.Concatenate()([layers.Flatten()(layers.Conv2D(2, 3)(pixels)), features])
    score, price = layers.Dense(2, name="score")(joined), layers.Dense(1, name="price")(joined)
    if by_name:
        return keras.Model(
            {"pixels": pixels, "features": features}, {"score": score, "price": price}
        )
    return keras.Model([pixels, features], [score, price])


def refusal(path):
    from workers.adapters import AdapterError
    from workers.adapters.keras import KerasModel

    with pytest.raises(AdapterError) as caught:
        KerasModel(path=str(path)).load("cpu")
    return str(caught.value)


def test_a_layer_that_is_code_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2)])
    model.save(tmp_path / "m.keras")
    assert "a layer with Python code in it (Lambda)" in refusal(tmp_path / "m.keras")


def test_a_damaged_file_is_refused(tmp_path):
    sequential().save(tmp_path / "m.keras")
    content = (tmp_path / "m.keras").read_bytes()
    (tmp_path / "m.keras").write_bytes(content[:900])
    assert "damaged" in refusal(tmp_path / "m.keras")


@pytest.mark.process
def test_members(tmp_path):
    one, two, named = sequential(), two_ended(by_name=False), two_ended(by_name=True)
    members = {}
    for name, model in (("one", one), ("two", two), ("named", named)):
        model.save(tmp_path / f"{name}.keras")
        members[name] = {"model": {"keras": str(tmp_path / f"{name}.keras")}}
    members["two"]["output_name"] = "score"
    members["named"]["output_name"] = "price"
    with served(members, tmp_path) as server:
        both = {"pixels": PIXELS, "features": X}
        found = {
            "one": answers(server, "one", X),
            "two": answers(server, "two", both),
            "named": answers(server, "named", both),
        }
        kinds = server.client.get("/v2/models/one").json()
    for name, expected in (
        ("one", one.predict(X, verbose=0)),
        ("two", two.predict([PIXELS, X], verbose=0)[0]),
        ("named", named.predict(both, verbose=0)["price"]),
    ):
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)
    assert kinds["inputs"][0]["name"] == "features"
