import math

import msgspec
import pytest

from server.following.traffic import InstanceTraffic, ModelTraffic, Traffic
from server.history.windows import Window, model_key, production, quantile
from workers.runtime.spec import ModelSource

BOUNDS = (1.0, 2.0, 4.0)


def test_quantiles_lie_between_the_bounds_of_their_counts():
    model = ModelTraffic(times=(0, 8, 2))
    assert quantile(model, 0.4, BOUNDS) == pytest.approx(1.5)
    assert quantile(model, 0.8, BOUNDS) == pytest.approx(2.0)
    assert quantile(model, 0.9, BOUNDS) == pytest.approx(3.0)
    assert quantile(ModelTraffic(times=(0, 0, 0, 1)), 0.5, BOUNDS) == math.inf
    assert quantile(ModelTraffic(), 0.5, BOUNDS) is None


def window(rows, *, seconds=60.0, observed_s=0.0, saved=0, predicted=0):
    instances = {"cpu:0": {"a": InstanceTraffic(1, predicted, 0.1)}}
    return Window(
        0.0,
        seconds,
        Traffic(1, observed_s, {"e": ModelTraffic(1, rows, saved=saved)}, {}, instances),
    )


def test_the_load_is_that_of_all_windows_and_its_busy_end():
    load = production([window(60 * rate, saved=10, predicted=30) for rate in range(1, 21)])
    assert load.rows_per_s == pytest.approx(10.5)
    assert load.busy_rows_per_s == 19.0
    assert load.saved == pytest.approx(0.25)
    assert production([window(30, seconds=10.0)]).busy_rows_per_s == 3.0
    assert production([window(30, seconds=0.1, observed_s=2.0)]).busy_rows_per_s == 15.0


def test_a_model_is_known_whatever_it_is_called():
    source = ModelSource("a", "onnx", "m.onnx")
    assert model_key(source) == model_key(msgspec.structs.replace(source, member="b", links="x"))
    assert model_key(source) != model_key(msgspec.structs.replace(source, path="n.onnx"))
