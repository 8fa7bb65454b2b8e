"""Infer requests of a known kind on a connection: to the engine and back, however they come."""

import asyncio
import json
from hashlib import sha256
from types import SimpleNamespace

import pytest
from arenas import ensemble
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState
from wire import Wire

from server.engine.memory_budget import COUNTED_BYTES, MemoryBudget
from server.engine.request import Answer, PreparedRequest
from server.engine.spec import ServedModel
from server.errors import ClientGone, QueueFull
from server.http_api.connection import Connection
from server.http_api.connections import Connections
from server.http_api.fast_infer import FastInfer
from server.http_api.incoming import InferPath
from server.http_api.protocol import parse_request
from server.inference.access_log import AccessLog
from server.inference.binding import bind_tensors
from server.inference.endpoint import Endpoint
from server.inference.outputs import infer_options
from server.inference.requests import BoundRequest
from server.inference.spec import ClientLimits, InputSpec, ModelSpec, StoredView
from server.inference.unread_responses import UnreadResponses
from server.security.authentication import Authenticator, Scope
from server.security.spec import ApiKey, SecuritySpec
from workers.runtime.spec import TensorSpec

OUTPUT = TensorSpec("output", "UINT8", (4,))
LIMITS = ClientLimits(header_s=1, body_s=2, idle_s=3, write_s=4, header_bytes=2000)
PATH = "/v2/models/m/infer"


def model(width):
    served = ServedModel(0, 0, ensemble("m", (0,), output=OUTPUT))
    tensor = TensorSpec("x", "UINT8", (width,))
    return ModelSpec(served, (InputSpec(tensor, (StoredView(0, 1),)),), ("m",))


def request_of(payload, *, path=PATH, headers=(), binary=True):
    """The bytes of a request with one row."""
    tensor = {
        "name": "x",
        "datatype": "UINT8",
        "shape": [1, len(payload)],
        "parameters": {"binary_data_size": len(payload)},
    }
    document = {"inputs": [tensor], "parameters": {"binary_data_output": binary}}
    header = json.dumps(document).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: t",
        f"Content-Length: {len(header) + len(payload)}",
        f"Inference-Header-Content-Length: {len(header)}",
        *headers,
        "\r\n",
    ]
    return "\r\n".join(lines).encode() + header + payload, header


class PlayedEngine:
    """Answers each request with the first bytes of its payload, when it may."""

    def __init__(self):
        self.is_open = True
        self.refusal = None
        self.may_answer = True
        self.waiting = []
        self.closed = []
        self.submitted = 0

    def submit(self, _prepared, inputs, rows, on_done, *, arrived):
        if self.refusal is not None:
            raise self.refusal
        self.submitted += 1
        ((view, data),) = inputs
        assert (view, rows) == (0, 1)
        request = SimpleNamespace(data=bytes(data[:4]), on_done=on_done, arrived=arrived)
        self.waiting.append(request)
        if self.may_answer:
            asyncio.get_running_loop().call_soon(self.answer)
        return request

    def answer(self):
        waiting, self.waiting = self.waiting, []
        for request in waiting:
            request.on_done(Answer(request.data, 1, 1, False))

    def close(self, request, reason):
        self.closed.append(reason)
        self.waiting.remove(request)
        request.on_done(reason)


class Scene:
    """A connection with both ways: an engine, and an application that echoes."""

    def __init__(self, width=8, *, keys=(), budget=None, max_request_bytes=1 << 20):
        self.model = model(width)
        self.engine = PlayedEngine()
        self.endpoint = Endpoint(self.model)
        self.path = InferPath(self.endpoint, AccessLog("none"))
        self.budget = MemoryBudget() if budget is None else budget
        inference = SimpleNamespace(
            engine=self.engine, tracer=None, access=AccessLog("none"), is_leaving=False
        )
        self.inference = inference
        self.refused = []
        self.fast = FastInfer(
            inference,
            {PATH: self.path},
            max_request_bytes=max_request_bytes,
            budget=self.budget,
            authenticator=Authenticator(
                SecuritySpec(tuple(keys)), lambda error, _: self.refused.append(error)
            ),
        )
        self.connections = Connections(LIMITS, 2, UnreadResponses(1 << 20), self.fast)
        self.state = ServerState()
        self.slow = 0
        self.connection = Connection(
            connections=self.connections,
            application=self.echo,
            server_state=self.state,
            app_state={},
        )
        self.wire = Wire()
        self.connection.connection_made(self.wire)

    async def echo(self, _scope, receive, send):
        self.slow += 1
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        if message["type"] == "http.disconnect":
            return
        body = (body + message["body"])[-8:][:4]
        headers = [(b"content-length", b"4")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def know(self, payload, **options):
        """Have it known what requests like this one ask."""
        data, header = request_of(payload, **options)
        body = data[data.index(b"\r\n\r\n") + 4 :]
        request = parse_request(body, len(header))
        rows, inputs = bind_tensors(self.model, request.tensors)
        wish = infer_options(self.model, request.parameters, request.outputs)
        bound = BoundRequest(PreparedRequest(self.model.served, wish), inputs, rows)
        self.path.plans.remember(body, len(header), request, bound)
        return data

    def feed(self, data):
        """As the event loop does: into the buffer that the connection gives, a piece at a time."""
        rest = memoryview(data)
        while rest:
            buffer = self.connection.get_buffer(-1)
            nbytes = min(len(buffer), len(rest))
            buffer[:nbytes] = rest[:nbytes]
            rest = rest[nbytes:]
            self.connection.buffer_updated(nbytes)

    async def turn(self):
        for _ in range(20):
            await asyncio.sleep(0)


def play(test, **options):
    async def run():
        scene = Scene(**options)
        await test(scene)
        scene.wire.state = "closed"
        scene.connection.connection_lost(None)
        await scene.turn()
        assert scene.budget.held_bytes == 0
        assert not scene.fast.authenticator.limiter._active
        return scene

    return asyncio.run(run())


def answers(sent):
    """The last four bytes of each response."""
    parts = sent.split(b"HTTP/1.1 ")[1:]
    assert all(part.startswith(b"200 ") for part in parts), sent
    return [part[-4:] for part in parts]


def payload(number, width=8):
    return b"%04d" % number + bytes(width - 4)


def test_a_known_kind_goes_to_the_engine_and_an_unknown_one_to_the_application():
    async def test(scene):
        unknown, _ = request_of(payload(1))
        scene.feed(unknown)
        await scene.turn()
        assert (scene.slow, scene.engine.submitted) == (1, 0)
        for number in range(2, 5):
            scene.feed(scene.know(payload(number)))
            await scene.turn()
        assert (scene.slow, scene.engine.submitted) == (1, 3)
        assert answers(scene.wire.sent) == [b"0001", b"0002", b"0003", b"0004"]
        assert scene.endpoint.counters.outcomes == {"ok": 3}
        # Also if it comes in pieces once, between two that are alike byte for byte.
        for pieces in (1, 2, 1, 1):
            data = scene.know(payload(9))
            for start in range(0, len(data), -(-len(data) // pieces)):
                scene.feed(data[start : start + -(-len(data) // pieces)])
            await scene.turn()
        assert scene.engine.submitted == 7

    play(test)


@given(
    st.lists(st.sampled_from(["fast", "slow", "other head"]), min_size=1, max_size=6),
    st.lists(st.integers(1, 400), max_size=12),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_however_bytes_come_each_request_gets_its_own_answer_in_its_turn(kinds, cuts, waits):
    async def test(scene):
        data = b""
        for number, kind in enumerate(kinds):
            if kind == "slow":
                data += request_of(payload(number), path="/other")[0]
            else:
                headers = ["X-Other: 1"] if kind == "other head" else []
                data += scene.know(payload(number), headers=headers)
        while data:
            cut = cuts.pop() if cuts else len(data)
            scene.feed(data[:cut])
            data = data[cut:]
            if waits:
                await scene.turn()
        for _ in kinds:
            await scene.turn()
        assert answers(scene.wire.sent) == [b"%04d" % number for number in range(len(kinds))]
        assert scene.engine.submitted == len(kinds) - kinds.count("slow")

    play(test)


WIDE = 3 * COUNTED_BYTES


@pytest.mark.parametrize("first", [10, 200, 5000])
def test_a_large_body_comes_into_its_place_and_counts_as_it_comes(first):
    async def test(scene):
        data = scene.know(payload(7, WIDE))
        scene.feed(data[:first])
        assert scene.budget.held_bytes <= first
        scene.feed(data[first : first + COUNTED_BYTES])
        assert 0 < scene.budget.held_bytes <= first + COUNTED_BYTES
        scene.engine.may_answer = False
        scene.feed(data[first + COUNTED_BYTES :])
        assert scene.budget.held_bytes > WIDE, "until it is answered"
        assert scene.engine.waiting[0].data == b"0007"
        scene.engine.answer()
        assert scene.budget.held_bytes == 0
        assert answers(scene.wire.sent) == [b"0007"]

    play(test, width=WIDE)


def test_a_model_that_is_not_open_is_looked_up_by_the_application():
    """Wherever its request is when another deployment comes to be served."""

    async def test(scene):
        data = scene.know(payload(1))
        for _ in range(2):
            scene.feed(data)
            await scene.turn()
        assert (scene.slow, scene.engine.submitted) == (0, 2)
        scene.endpoint.is_open = False
        scene.feed(data)  # as the last one, byte for byte
        await scene.turn()
        assert (scene.slow, scene.engine.submitted) == (1, 2)
        scene.endpoint.is_open = True
        cut = data.index(b"\r\n\r\n") + 10
        scene.feed(data[:cut])
        scene.endpoint.is_open = False
        scene.feed(data[cut:])
        await scene.turn()
        assert (scene.slow, scene.engine.submitted) == (2, 2)

    play(test)


def test_a_large_body_of_an_unknown_kind_is_the_applications():
    async def test(scene):
        scene.feed(request_of(bytes(WIDE - 8) + b"0005abcd")[0])
        for _ in range(3):
            await scene.turn()
        assert (scene.slow, answers(scene.wire.sent)) == (1, [b"0005"])

    play(test, width=WIDE)


def test_a_body_that_others_leave_no_memory_for_is_the_applications_to_refuse():
    async def test(scene):
        data = scene.know(payload(7, WIDE))
        scene.feed(data[:1000])
        scene.budget.reserve(scene.budget.limit_bytes - 10_000)
        scene.feed(data[1000:20_000])
        assert scene.budget.held_bytes == scene.budget.limit_bytes - 10_000
        await scene.turn()
        assert scene.slow == 1
        scene.budget.release(scene.budget.limit_bytes - 10_000)
        scene.feed(data[20_000:])
        await scene.turn()
        assert scene.engine.submitted == 0
        assert answers(scene.wire.sent) == [bytes(4)]

    play(test, width=WIDE, budget=MemoryBudget(10 * WIDE))


def test_a_body_for_which_there_is_no_memory_is_the_applications(monkeypatch):
    def refuse(nbytes):
        raise MemoryError(nbytes)

    monkeypatch.setattr("server.http_api.incoming._allocate_untouched", refuse)

    async def test(scene):
        scene.feed(request_of(bytes(WIDE - 8) + b"0005abcd")[0])
        for _ in range(3):
            await scene.turn()
        assert (scene.slow, answers(scene.wire.sent)) == (1, [b"0005"])

    play(test, width=WIDE)


def test_who_takes_no_answers_has_no_further_request_begun():
    async def test(scene):
        data = scene.know(payload(1))
        scene.feed(data)
        await scene.turn()
        scene.wire.on_write = scene.connection.pause_writing
        scene.feed(data)
        await scene.turn()
        scene.connection.data_received(data)  # as TLS may, though reading is paused
        await scene.turn()
        assert (scene.engine.submitted, scene.wire.is_read) == (2, False)
        scene.wire.on_write = lambda: None
        scene.connection.resume_writing()
        await scene.turn()
        assert (scene.engine.submitted, scene.wire.is_read) == (3, True)
        assert answers(scene.wire.sent) == [b"0001"] * 3

    play(test)


def test_what_is_announced_as_too_large_is_the_applications_to_refuse():
    async def test(scene):
        scene.feed(request_of(payload(7, 2000))[0][:200])
        await scene.turn()
        assert scene.slow == 1

    play(test, max_request_bytes=1000)


def test_a_client_that_goes_has_its_rows_given_up():
    async def test(scene):
        scene.engine.may_answer = False
        scene.feed(scene.know(payload(1)) + scene.know(payload(2)))
        scene.wire.state = "closed"
        scene.connection.connection_lost(None)
        assert [type(reason) for reason in scene.engine.closed] == [ClientGone]
        assert scene.endpoint.counters.outcomes == {"disconnected": 2}

    play(test)


def test_a_body_that_does_not_come_in_time():
    async def test(scene):
        scene.feed(scene.know(payload(1, WIDE))[:-1])
        scene.connection.check_time_limit(0.0)
        scene.connection.check_time_limit(1.9)
        assert scene.wire.sent == b""
        scene.connection.check_time_limit(2.0)
        assert scene.wire.sent.startswith(b"HTTP/1.1 408 ")
        assert scene.wire.state == "closed"
        assert scene.endpoint.counters.outcomes == {"body_timeout": 1}
        scene.feed(b"x")  # it comes too late

    play(test, width=WIDE)


def test_a_refusal_has_its_status_and_leaves_the_connection():
    async def test(scene):
        scene.engine.refusal = QueueFull("too much")
        data = scene.know(payload(1))
        scene.feed(data * 2000)  # each in its turn
        for _ in range(200):
            await scene.turn()
        assert scene.wire.sent.count(b"HTTP/1.1 429 ") == 2000
        assert scene.wire.sent.count(b"retry-after: 1") == 2000
        assert b'{"error":"too much"}' in scene.wire.sent
        assert scene.wire.state == "open"
        scene.engine.refusal = ZeroDivisionError("oh")
        scene.wire.sent = b""
        scene.feed(data)
        await scene.turn()
        assert scene.wire.sent.startswith(b"HTTP/1.1 500 ")
        assert b"x-request-id: " in scene.wire.sent
        scene.engine.refusal = None
        scene.wire.sent = b""
        scene.feed(data)
        await scene.turn()
        assert answers(scene.wire.sent) == [b"0001"]

    scene = play(test)
    assert scene.endpoint.counters.outcomes == {"queue_full": 2000, "internal": 1, "ok": 1}


def test_a_server_that_leaves_says_so():
    async def test(scene):
        data = scene.know(payload(1))
        scene.inference.is_leaving = True
        scene.feed(data)
        await scene.turn()
        assert b"connection: close\r\n" in scene.wire.sent
        assert scene.wire.state == "closed"

    play(test)


@pytest.mark.parametrize(
    "headers", [["Connection: close"], ["X-Request-Id: mine"], ["Accept-Encoding: gzip"]]
)
def test_what_a_head_asks_for_is_done(headers):
    async def test(scene):
        for _ in range(3):
            scene.feed(scene.know(payload(1), headers=headers))
            await scene.turn()
        count = 1 if "close" in headers[0] else 3
        assert scene.wire.sent.count(b"connection: close") == (1 if count == 1 else 0)
        assert scene.wire.sent.count(b"x-request-id: mine") == (3 if "mine" in headers[0] else 0)
        assert scene.engine.submitted == len(answers(scene.wire.sent)) == count

    play(test)


@pytest.mark.parametrize(
    "headers",
    [
        ["Expect: 100-continue"],
        ["Content-Encoding: gzip"],
        ["Inference-Header-Content-Length: 1"],
        ["Authorization: Bearer a", "Authorization: Bearer a"],
    ],
)
def test_what_is_unusual_is_the_applications(headers):
    async def test(scene):
        scene.feed(scene.know(payload(1), headers=headers))
        await scene.turn()
        assert (scene.slow, scene.engine.submitted) == (1, 0)

    play(test)


def test_keys_are_looked_at_each_time():
    key = ApiKey("me", sha256(b"secret").digest(), ("infer",))

    async def test(scene):
        good = scene.know(payload(1), headers=["Authorization: Bearer secret"])
        for data in (good, good, scene.know(payload(1), headers=["Authorization: Bearer other"])):
            scene.feed(data)
            await scene.turn()
        assert (scene.engine.submitted, scene.slow) == (2, 1), "who has no key is refused there"
        scene.feed(good)
        scene.fast.authenticator.update(SecuritySpec())
        await scene.turn()
        assert scene.engine.submitted == 3
        scene.fast.authenticator.update(SecuritySpec((ApiKey("you", bytes(32), ("infer",)),)))
        scene.wire.sent = b""
        scene.feed(good)
        await scene.turn()
        assert scene.wire.sent.startswith(b"HTTP/1.1 401 ")
        assert len(scene.refused) == 1
        assert scene.endpoint.counters.outcomes == {"ok": 3}, "the door has counted it"

    play(test, keys=[key])


def test_a_client_has_so_many_requests_at_once():
    async def test(scene):
        scene.fast.authenticator.update(SecuritySpec(client_requests=1))
        scene.connection.client = ("::1", 1)
        scene.fast.authenticator.admit(Scope.INFER, None, "", "::1")
        scene.feed(scene.know(payload(1)))
        await scene.turn()
        assert scene.wire.sent.startswith(b"HTTP/1.1 429 ")
        scene.fast.authenticator.limiter.release("::1")
        scene.wire.sent = b""
        scene.feed(scene.know(payload(1)))
        await scene.turn()
        assert answers(scene.wire.sent) == [b"0001"]

    play(test)


def test_while_the_engine_is_closed_the_application_refuses():
    async def test(scene):
        data = scene.know(payload(1))
        scene.feed(data)
        await scene.turn()
        scene.engine.is_open = False
        scene.feed(data)
        await scene.turn()
        assert (scene.engine.submitted, scene.slow) == (1, 1)

    play(test)
