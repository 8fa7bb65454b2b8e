"""Requests of a known kind: which are, where their tensors lie, what becomes of them."""

import time
from types import SimpleNamespace

import pytest
from arenas import ensemble
from ensembled_client.wire.messages import message_class
from hypothesis import given
from hypothesis import strategies as st

from allocator.dispatch.flows import HIGH
from server.engine.request import Answer, InferOptions, PreparedRequest
from server.engine.spec import ServedModel
from server.errors import ClientGone, QueueFull
from server.grpc_api.codec import decode_fields, encode_response
from server.grpc_api.fast_infer import FastUnaryInfer, remaining_timeout_s
from server.grpc_api.wire_format import split_fields
from server.inference.access_log import AccessLog
from server.inference.binding import bind_tensors
from server.inference.endpoint import Endpoint
from server.inference.outputs import OutputTensor
from server.inference.requests import BoundRequest
from server.inference.spec import InputSpec, ModelSpec, StoredView
from server.versions import ModelName
from workers.runtime.spec import TensorSpec

Request = message_class("ModelInferRequest")
OUTPUT = TensorSpec("output", "UINT8", (4,))
SPEC = ensemble("m", (0,), output=OUTPUT)


class Engine:
    """Takes everything, or refuses it."""

    def __init__(self, error=None):
        self.submitted, self.closed, self.error = [], [], error

    def submit(self, prepared, inputs, rows, on_done, *, arrived, within_s):
        if self.error is not None:
            raise self.error
        asked = SimpleNamespace(
            inputs=[(view, bytes(data)) for view, data in inputs], rows=rows, within_s=within_s
        )
        asked.done = on_done
        self.submitted.append(asked)
        return asked

    def close(self, request, reason):
        self.closed.append(reason)
        request.done(reason)


class Unary:
    """A call with so much time left."""

    def __init__(self, left_s=None):
        self.call = SimpleNamespace(
            time_remaining=lambda: left_s, metadata=(), peer=lambda: "ipv4:127.0.0.1:1"
        )
        self.on_cancelled = self.answer = self.error = None

    def succeed(self, response):
        self.answer = response

    def fail(self, error):
        self.error = error


class Scene:
    def __init__(self, *, restricts_urgent=False, access="none", error=None, inputs=("x",)):
        self.engine = Engine(error)
        tensors = tuple(
            InputSpec(TensorSpec(name, "UINT8", (300,)), (StoredView(view, 1),))
            for view, name in enumerate(inputs)
        )
        served = ServedModel(0, 0, SPEC)
        self.endpoint = Endpoint(ModelSpec(served, tensors, ("m",)))
        self.renewals = []
        inference = SimpleNamespace(
            engine=self.engine,
            access=AccessLog(access),
            tracer=None,
            deployments=SimpleNamespace(on_routes=self.renewals.append),
        )
        self.fast = FastUnaryInfer(inference, SimpleNamespace(restricts_urgent=restricts_urgent))

    def remember(self, message, options=InferOptions()):  # noqa: B008
        asked = decode_fields(split_fields(message))
        rows, inputs = bind_tensors(self.endpoint.model, asked.build().tensors)
        bound = BoundRequest(PreparedRequest(self.endpoint.model.served, options), inputs, rows)
        self.fast.remember(message, asked, self.endpoint, bound, asked.head.outputs)

    def takes(self, message, unary=None):
        return self.fast.begin(unary or Unary(), message)


def message(*payloads, names=("x",), **more):
    request = Request(model_name="m", **more)
    for name, payload in zip(names, payloads, strict=True):
        request.inputs.add(name=name, datatype="UINT8", shape=[len(payload) // 300, 300])
        request.raw_input_contents.append(payload)
    return request.SerializeToString(deterministic=True)


def payload(number, rows=1):
    return bytes([number]) * 300 * rows


def test_requests_that_differ_only_in_their_tensors_match():
    scene = Scene()
    assert not scene.takes(message(payload(1)))
    scene.remember(message(payload(1)))
    assert scene.takes(message(payload(2)))
    (asked,) = scene.engine.submitted
    assert asked.inputs == [(0, payload(2))]
    assert (asked.rows, asked.within_s) == (1, 0.0)


@given(st.permutations(["x", "y", "z"]), st.integers(1, 3))
def test_each_tensor_goes_to_the_input_of_its_name(names, rows):
    scene = Scene(inputs=("x", "y", "z"))
    scene.remember(message(*[payload(1, rows)] * 3, names=names))
    given_ = [payload(10 + i, rows) for i in range(3)]
    assert scene.takes(message(*given_, names=names))
    (asked,) = scene.engine.submitted
    expected = {("x", "y", "z").index(name): data for name, data in zip(names, given_, strict=True)}
    assert dict(asked.inputs) == expected
    other = names[1:] + names[:1]
    assert not scene.takes(message(*given_, names=other))


@pytest.mark.parametrize(
    "other",
    [
        message(payload(2), model_version="1"),
        message(payload(2, 2)),
        message(payload(2)).replace(b"\x0a\x01m", b"\x0a\x01n"),
        message(payload(2)) + b"\x1a\x00",
    ],
)
def test_requests_that_do_not_match(other):
    scene = Scene()
    scene.remember(message(payload(1)))
    assert not scene.takes(other)


@pytest.mark.parametrize(
    "sent",
    [
        message(payload(1), id="7"),
        message(payload(1)) + b"\x1a\x00",  # an id, which is empty, behind the tensors
        b"\x1a\x00" + message(payload(1)),
        message(payload(1)) + b"\x4a\x01a",  # a field that nobody knows
        message(payload(1)).replace(b"\x3a\xac\x02", b"\x3a\xac\x82\x00"),  # a longer length
    ],
)
def test_requests_without_a_plan(sent):
    scene = Scene()
    scene.remember(sent)
    assert not scene.takes(sent)


def test_no_plans_of_other_outputs_nor_with_a_full_access_log():
    request = Request.FromString(message(payload(1)))
    request.outputs.add(name="output").parameters["classification"].int64_param = 1
    scene = Scene()
    scene.remember(request.SerializeToString())
    assert not scene.takes(request.SerializeToString())
    scene = Scene(access="all")
    scene.remember(message(payload(1)))
    assert not scene.takes(message(payload(1)))


@pytest.mark.parametrize("restricts_urgent", [False, True])
def test_restricted_urgent_requests_take_the_slow_path(restricts_urgent):
    scene = Scene(restricts_urgent=restricts_urgent)
    scene.remember(message(payload(1)), InferOptions(priority=HIGH))
    assert scene.takes(message(payload(1))) is not restricts_urgent


def test_plans_of_one_length_are_bounded():
    scene = Scene()
    names = [chr(letter) for letter in range(ord("a"), ord("z"))]
    sent = [message(payload(1)).replace(b"\x0a\x01m", b"\x0a\x01" + n.encode()) for n in names]
    for one in sent:
        scene.remember(one)
    assert [scene.takes(one) for one in sent] == [False] * (len(names) - 8) + [True] * 8


def test_concurrent_first_requests_make_one_plan():
    scene = Scene()
    other = message(payload(1)).replace(b"\x0a\x01m", b"\x0a\x01n")
    scene.remember(other)
    for number in range(20):
        scene.remember(message(payload(number)))
    assert scene.takes(other)
    assert scene.takes(message(payload(1)))


def test_responses_equal_those_of_the_slow_path():
    scene = Scene()
    scene.remember(message(payload(1)))
    for values, degraded in ((b"abcd", False), (b"efgh", False), (bytearray(b"ijkl"), True)):
        unary = Unary()
        assert scene.takes(message(payload(2)), unary)
        now = time.monotonic()
        scene.engine.submitted[-1].done(Answer(values, 1, 1, degraded, None, now, now, now))
        output = OutputTensor("output", "UINT8", [1, 4], values)
        expected = encode_response(ModelName("m", "1"), "", "m", degraded, [output], generation=1)
        assert unary.answer == expected
    assert scene.endpoint.counters.outcomes == {"ok": 2, "degraded": 1}


def test_plans_are_for_what_is_served_now():
    scene = Scene()
    scene.remember(message(payload(1)))
    scene.endpoint.is_open = False
    assert not scene.takes(message(payload(2)))
    scene.endpoint.is_open = True
    assert scene.takes(message(payload(2)))
    for renew in scene.renewals:
        renew()
    assert not scene.takes(message(payload(2))), "a name may mean another version now"


def test_a_refusal_is_counted_and_sent():
    scene = Scene(error=QueueFull("full", 1.0, "waiting"))
    scene.remember(message(payload(1)))
    unary = Unary()
    assert scene.takes(message(payload(1)), unary)
    assert unary.error is scene.engine.error
    assert scene.endpoint.counters.outcomes == {"queue_full": 1}


def test_a_client_that_disconnects():
    scene = Scene()
    scene.remember(message(payload(1)))
    unary = Unary()
    assert scene.takes(message(payload(1)), unary)
    unary.on_cancelled()
    assert [type(reason) for reason in scene.engine.closed] == [ClientGone]
    assert isinstance(unary.error, ClientGone)
    assert scene.endpoint.counters.outcomes == {"disconnected": 1}


def test_a_deadline_differs_from_call_to_call():
    scene = Scene()
    scene.remember(message(payload(1)))
    for left_s, expected in ((10.0, 9.9), (0.5, 0.45), (None, 0.0)):
        assert scene.takes(message(payload(1)), Unary(left_s))
        assert scene.engine.submitted[-1].within_s == pytest.approx(expected)
    assert 0 < remaining_timeout_s(0.0) < 1e-6
