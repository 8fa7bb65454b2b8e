"""Bodies whose header was seen before are sliced exactly as parsing would have them."""

import json

import numpy as np
import pytest
from arenas import ensemble

from server.engine.request import PreparedRequest
from server.engine.spec import ServedModel
from server.http_api.incoming import PlanCache
from server.http_api.protocol import parse_request
from server.inference.binding import bind_tensors
from server.inference.endpoint import Endpoint
from server.inference.outputs import infer_options
from server.inference.requests import BoundRequest, RequestedOutput
from server.inference.spec import InputSpec, ModelSpec, StoredView
from workers.runtime.spec import TensorSpec

OUTPUT = TensorSpec("output", "FP32", (2,))
MODEL = ModelSpec(
    served=ServedModel(0, 0, ensemble("m", (0,), output=OUTPUT)),
    inputs=(
        InputSpec(TensorSpec("a", "FP32", (3,)), (StoredView(4, 1),)),
        InputSpec(TensorSpec("b", "INT16", (2, 2)), (StoredView(5, 1),)),
    ),
    members=("m",),
)


def body_of(rows, *, order=("a", "b"), seed=0, **header):
    """A request for `MODEL`: the body, the length of its header, and the arrays in it."""
    generator = np.random.default_rng(seed)
    arrays = {
        "a": generator.random((rows, 3), np.float32),
        "b": generator.integers(-9, 9, (rows, 2, 2), np.int16),
    }
    types = {"a": "FP32", "b": "INT16"}
    inputs = [
        {
            "name": name,
            "datatype": types[name],
            "shape": arrays[name].shape,
            "parameters": {"binary_data_size": arrays[name].nbytes},
        }
        for name in order
    ]
    text = json.dumps({"inputs": inputs, **header}).encode()
    return text + b"".join(arrays[name].tobytes() for name in order), len(text), arrays


def remember(cache, body, length):
    request = parse_request(body, length)
    rows, inputs = bind_tensors(MODEL, request.tensors)
    options = infer_options(MODEL, request.parameters, request.outputs)
    cache.remember(
        body, length, request, BoundRequest(PreparedRequest(MODEL.served, options), inputs, rows)
    )


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_a_known_header_gives_what_parsing_gives(order):
    cache = PlanCache(Endpoint(MODEL))
    parameters = {"binary_data_output": True, "timeout": 5000}
    body, length, _ = body_of(3, order=order, parameters=parameters)
    assert cache.find(body, length) is None
    remember(cache, body, length)
    again, length, arrays = body_of(3, order=order, seed=1, parameters=parameters)
    plan = cache.find(again, length)
    assert (plan.rows, plan.prepared.options.timeout_s) == (3, 0.005)
    assert plan.outputs == (RequestedOutput(binary=True, is_default=True),)
    assert plan.is_usual
    inputs = dict(plan.bind(again).inputs)
    assert list(inputs) == [4 if name == "a" else 5 for name in order]
    for view, name in ((4, "a"), (5, "b")):
        assert inputs[view] == arrays[name].tobytes()
        assert plan.inputs(b"before" + again, 6)[list(inputs).index(view)] == (view, inputs[view])


def test_another_header_or_another_length_is_not_known():
    cache = PlanCache(Endpoint(MODEL))
    body, length, _ = body_of(3)
    remember(cache, body, length)
    other, other_length, _ = body_of(4)
    assert cache.find(other, other_length) is None
    assert cache.find(body[:-1], length) is None
    assert cache.find(body + b"x", length) is None
    assert cache.find(body, length - 1) is None


def test_requests_with_an_id_or_tensors_in_the_header_are_not_remembered():
    cache = PlanCache(Endpoint(MODEL))
    body, length, _ = body_of(1, id="mine")
    remember(cache, body, length)
    assert cache.find(body, length) is None
    values = {"name": "a", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
    raw = {
        "name": "b",
        "datatype": "INT16",
        "shape": [1, 2, 2],
        "parameters": {"binary_data_size": 8},
    }
    text = json.dumps({"inputs": [values, raw]}).encode()
    remember(cache, text + bytes(8), len(text))
    assert cache.find(text + bytes(8), len(text)) is None


def test_a_client_that_varies_its_header_drives_nobody_else_out():
    cache = PlanCache(Endpoint(MODEL))
    steady, steady_length, _ = body_of(2)
    remember(cache, steady, steady_length)
    for number in range(2000):
        body, length, _ = body_of(1, parameters={"timeout": number})
        remember(cache, body, length)
        assert cache.find(body, length) is not None
        assert cache.find(steady, steady_length) is not None


def test_a_header_that_is_too_long_to_be_looked_up_is_not_known():
    cache = PlanCache(Endpoint(MODEL))
    body, length, _ = body_of(1, parameters={"x": "y" * 5000})
    remember(cache, body, length)
    assert cache.find(body, length) is None
