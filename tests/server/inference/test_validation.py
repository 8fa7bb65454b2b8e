"""Validation of a new model against the present one, with models that are functions of the rows."""

import asyncio

import numpy as np
import pytest
from arenas import ensemble

from server.engine.request import Answer
from server.engine.spec import ServedModel
from server.errors import MemberFailed
from server.inference.endpoint import Endpoint
from server.inference.requests import BoundRequest
from server.inference.spec import InputSpec, ModelSpec, StoredView, ValidationSpec
from server.inference.validation import ValidationFailed, validate
from workers.runtime.spec import TensorSpec

ROWS = np.arange(40, dtype=np.float32).reshape(20, 2)


def endpoint(width=2, datatype="FP32"):
    output = TensorSpec("output", "FP32", (2,))
    served = ServedModel(0, 0, ensemble("m@2", (0,), output=output))
    tensor = TensorSpec("x", datatype, (width,))
    return Endpoint(ModelSpec(served, (InputSpec(tensor, (StoredView(0, 1),)),), ("m",)))


class Models:
    """Stands in for `Inference`: each endpoint answers what its function makes of the rows."""

    def __init__(self, **functions):
        self.endpoints = {name: endpoint() for name in functions}
        self.functions = {self.endpoints[name]: function for name, function in functions.items()}
        self.asked = []

    async def bind(self, endpoint, request):
        (tensor,) = request.tensors
        self.asked.append(len(tensor.array))
        return BoundRequest(endpoint, tensor.array, len(tensor.array))

    async def answer(self, bound, arrived):
        endpoint, array, rows = bound
        values = self.functions[endpoint](array).astype(np.float32)
        return Answer(values.tobytes(), rows, 1, False, started=0.0, ended=0.0)


def run(models, path, **limits):
    given = {"max_disagreement": 0.05, "tolerance": 1e-3, **limits}
    spec = ValidationSpec("m@2", "members.m", str(path), **given)
    return asyncio.run(validate(models, spec, *models.endpoints.values()))


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "rows.npz", x=ROWS)
    return tmp_path / "rows.npz"


def test_answers_that_stay_the_same(path):
    models = Models(present=lambda rows: rows, new=lambda rows: rows + 1e-4)
    line = run(models, path)
    assert line == "m: the answers to 0 of 20 rows differ (by 0.0001 at most), of rows.npz"
    assert models.asked == [16, 16, 4, 4], "a few rows at a time, both models in turn"


def test_too_many_answers_that_differ(path):
    models = Models(present=lambda rows: rows, new=lambda rows: rows + (rows[:, :1] > 37))
    assert "1 of 20 rows" in run(models, path)
    with pytest.raises(ValidationFailed, match=r"1 of 20 rows differ .*: more than 4\.0% may not"):
        run(models, path, max_disagreement=0.04)
    assert "1 of 20 rows" in run(models, path, max_disagreement=1.0)


def test_a_tolerance(path):
    models = Models(present=lambda rows: rows, new=lambda rows: rows * 1.01)
    with pytest.raises(ValidationFailed, match="rows differ"):
        run(models, path)
    assert "0 of 20 rows" in run(models, path, tolerance=0.011)


def test_a_new_model_that_fails(path):
    def fail(_rows):
        raise MemberFailed("member 'm' failed: no")

    with pytest.raises(ValidationFailed, match="m: fails on the rows: member 'm' failed: no"):
        run(Models(present=lambda rows: rows, new=fail), path)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"y": ROWS}, r"members\.m\.validate\.data .*has no input 'x'; it has y"),
        ({"x": ROWS[:, :1]}, r"is \[20, 1\], not \[rows, 2\]"),
        ({"x": ROWS[:0]}, "has no rows"),
        ({"x": np.full((1, 2), np.nan)}, "not a finite number"),
    ],
)
def test_rows_that_do_not_fit(tmp_path, arrays, complaint):
    np.savez(tmp_path / "rows.npz", **arrays)
    models = Models(present=lambda rows: rows, new=lambda rows: rows)
    with pytest.raises(ValidationFailed, match=complaint):
        run(models, tmp_path / "rows.npz")
    assert not models.asked


def test_a_file_that_is_gone(tmp_path):
    models = Models(present=lambda rows: rows, new=lambda rows: rows)
    with pytest.raises(ValidationFailed, match=r"gone\.npz: No such file"):
        run(models, tmp_path / "gone.npz")
