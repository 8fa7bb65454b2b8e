"""What a connection waits for, and for how long, by a clock of the test's."""

import asyncio
import gc
import weakref
from types import SimpleNamespace

import pytest
from uvicorn.server import ServerState
from wire import Wire

from server.http_api.connection import Connection
from server.http_api.connections import Connections, WaitReason
from server.inference.spec import ClientLimits
from server.inference.unread_responses import UnreadResponses

LIMITS = ClientLimits(header_s=1, body_s=2, idle_s=3, write_s=4, header_bytes=2000)
HEAD = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\n"
REQUEST = HEAD + b"abc"


class Scene:
    """A connection, its transport, and an application that answers when it may."""

    def __init__(self):
        nothing_is_fast = SimpleNamespace(receive=lambda *_: None, is_infer=lambda _: False)
        self.connections = Connections(LIMITS, 2, UnreadResponses(1000), nothing_is_fast)
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.state = ServerState()
        self.began = self.connections.now
        self.bodies = []
        self.gone = 0

    def make_connection(self):
        return Connection(
            connections=self.connections,
            application=self.answer,
            server_state=self.state,
            app_state={},
        )

    def connect(self):
        connection, wire = (
            self.make_connection(),
            Wire(),
        )
        connection.connection_made(wire)
        return connection, wire

    async def answer(self, _scope, receive, send):
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        if message["type"] == "http.disconnect":
            return
        self.bodies.append(body + message["body"])
        if not self.may_answer.is_set():
            gone, may = asyncio.create_task(receive()), asyncio.create_task(self.may_answer.wait())
            await asyncio.wait({gone, may}, return_when=asyncio.FIRST_COMPLETED)
            if not self.may_answer.is_set():
                self.gone += 1
            gone.cancel()
            may.cancel()
        head = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b"ok"})

    async def turn(self):
        """Let the application go on."""
        for _ in range(10):
            await asyncio.sleep(0)


def play(test):
    """Run `test(scene, connection, wire)`; which limits have ended connections."""

    async def run():
        scene = Scene()
        connection, wire = scene.connect()
        await test(scene, connection, wire)
        wire.state = "closed"
        connection.connection_lost(None)
        scene.may_answer.set()
        await scene.turn()
        return scene.connections.ended

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("sent", "limit_s", "status"),
    [(b"", 3, b""), (b"\r\n", 3, b""), (HEAD[:-1], 1, b"408"), (HEAD + b"a", 2, b"408")],
    ids=["nothing", "line end", "headers", "body"],
)
def test_who_does_not_go_on_is_ended_after_the_limit(sent, limit_s, status):
    async def test(scene, connection, wire):
        if sent:
            connection.data_received(sent)
        await scene.turn()
        connection.check_time_limit(scene.began)
        connection.check_time_limit(scene.began + limit_s - 0.01)
        assert (wire.state, wire.sent) == ("open", b"")
        connection.check_time_limit(scene.began + limit_s)
        assert wire.state == "closed"
        assert wire.sent[9:12] == status
        await scene.turn()

    ended = play(test)
    assert sum(ended.values()) == 1


def test_the_server_may_take_its_time():
    async def test(scene, connection, wire):
        scene.may_answer.clear()
        connection.data_received(REQUEST + HEAD[:5])
        await scene.turn()
        connection.check_time_limit(0.0)
        connection.check_time_limit(1e9)
        assert wire.state == "open"
        scene.may_answer.set()
        await scene.turn()
        assert wire.sent.endswith(b"ok")
        connection.check_time_limit(1e9 + 1)  # from now on the client's time counts
        connection.check_time_limit(1e9 + 1.9)
        assert wire.state == "open"
        connection.check_time_limit(1e9 + 2)
        assert b" 408 " in wire.sent

    play(test)


def test_who_asks_between_two_looks_is_not_idle():
    async def test(scene, connection, wire):
        for second in range(20):
            connection.data_received(REQUEST)
            await scene.turn()
            connection.check_time_limit(float(second))
        assert wire.state == "open"
        assert wire.sent.count(b"ok") == 20

    play(test)


def test_an_answer_that_is_not_taken():
    async def test(scene, connection, wire):
        connection.data_received(REQUEST)
        await scene.turn()
        wire.unsent_bytes = 1
        connection.check_time_limit(0.0)
        connection.check_time_limit(3.9)
        assert wire.state == "open"
        connection.check_time_limit(4.0)
        assert wire.state == "aborted"

    assert play(test) == {"write": 1}


def test_whoever_takes_no_answer_has_no_further_request_begun():
    async def test(scene, connection, wire):
        wire.on_write = connection.pause_writing
        connection.data_received(REQUEST * 3)
        await scene.turn()
        assert (len(scene.bodies), wire.sent.count(b"ok"), wire.is_read) == (1, 1, False)
        connection.resume_writing()
        await scene.turn()
        assert (len(scene.bodies), wire.sent.count(b"ok"), wire.is_read) == (2, 2, False)
        wire.on_write = lambda: None
        connection.resume_writing()
        await scene.turn()
        assert (len(scene.bodies), wire.sent.count(b"ok"), wire.is_read) == (3, 3, True)

    play(test)


def test_whoever_takes_no_answer_is_ended_if_others_need_the_memory():
    async def test(scene, connection, wire):
        other, others_wire = scene.connect()
        wire.unsent_bytes, others_wire.unsent_bytes = 700, 200
        connection.pause_writing()
        other.pause_writing()
        await scene.turn()
        assert (wire.state, others_wire.state) == ("open", "open")
        others_wire.unsent_bytes = 400
        other.pause_writing()
        await scene.turn()
        assert (wire.state, others_wire.state) == ("aborted", "open")
        assert scene.connections.unread.held_bytes == 400
        other.connection_lost(None)
        assert scene.connections.unread.held_bytes == 0

    assert play(test) == {"unread": 1}


def test_when_the_server_stops_readers_have_ten_seconds_at_most():
    async def test(scene, connection, wire):
        scene.connections.limit_s[WaitReason.WRITE] = 60.0
        connection.data_received(REQUEST)
        await scene.turn()
        wire.unsent_bytes = 1
        connection.shutdown()
        connection.check_time_limit(0.0)
        connection.check_time_limit(9.9)
        assert wire.state != "aborted"
        connection.check_time_limit(10.0)
        assert wire.state == "aborted"

    assert play(test) == {"write": 1}


def test_a_connection_too_many():
    async def test(scene, _connection, _wire):
        scene.connect()
        third, wire = scene.connect()
        assert wire.sent.startswith(b"HTTP/1.1 503 ")
        assert wire.state == "closed"
        third.connection_lost(None)
        assert len(scene.state.connections) == 2

    assert play(test) == {"connections": 1}


@pytest.mark.parametrize("pieces", [1, 2, 50])
def test_headers_that_are_too_large(pieces):
    head = HEAD[:-2] + b"X: " + b"x" * 2000 + b"\r\n\r\n"

    async def test(scene, connection, wire):
        size = -(-len(head) // pieces)
        for start in range(0, len(head), size):
            if wire.state == "open":
                connection.data_received(head[start : start + size])
        await scene.turn()
        assert wire.sent.startswith(b"HTTP/1.1 431 ")
        assert wire.sent.count(b"HTTP/1.1") == 1
        assert wire.state == "closed"

    assert play(test) == {"header_bytes": 1}


_UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"


@pytest.mark.parametrize(
    "framed",
    [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"],
    ids=["length", "chunks"],
)
@pytest.mark.parametrize("is_in_pieces", [False, True])
def test_a_body_with_a_wish_for_another_protocol_is_a_body_and_no_request(framed, is_in_pieces):
    wish = b"POST /x HTTP/1.1\r\nHost: t\r\n" + _UPGRADE + framed

    async def test(scene, connection, wire):
        data = wish + wish + REQUEST
        for piece in [data[i : i + 1] for i in range(len(data))] if is_in_pieces else [data]:
            connection.data_received(piece)
        await scene.turn()
        assert wire.sent.count(b"HTTP/1.1 200 ") == 3
        assert wire.state == "open"
        assert scene.bodies == [b"abc"] * 3

    play(test)


def test_a_request_without_a_body_that_asks_for_another_protocol_is_answered_in_this_one():
    async def test(scene, connection, wire):
        connection.data_received(
            (b"GET / HTTP/1.1\r\nHost: t\r\n" + _UPGRADE + b"\r\n") * 2000 + REQUEST
        )
        for _ in range(2001):
            await scene.turn()
        assert wire.sent.count(b"HTTP/1.1 200 ") == 2001
        assert wire.state == "open"

    play(test)


def test_a_tunnel_is_refused():
    async def test(_scene, connection, wire):
        connection.data_received(b"CONNECT a:1 HTTP/1.1\r\n" + HEAD.split(b"\r\n", 1)[1])
        assert wire.sent.startswith(b"HTTP/1.1 400 ")
        assert wire.state == "closed"

    play(test)


@pytest.mark.parametrize("before", [1, 2, 3])
@pytest.mark.parametrize(
    "damaged",
    [
        b"nonsense\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        HEAD[:-2] + b"X: " + b"x" * 2000 + b"\r\n\r\n",
    ],
    ids=["head", "body", "large"],
)
def test_whole_requests_before_one_that_is_damaged_are_answered(damaged, before):
    async def test(scene, connection, wire):
        scene.may_answer.clear()
        connection.data_received(REQUEST * before + damaged)
        connection.data_received(b"and more")
        await scene.turn()
        assert wire.sent == b""
        scene.may_answer.set()
        for _ in range(before):
            await scene.turn()
        assert wire.sent.count(b"HTTP/1.1 200 ") == before
        assert wire.sent.count(b"HTTP/1.1 ") == before
        assert wire.sent.count(b"connection: close") == 1
        assert wire.sent.index(b"connection: close") > wire.sent.rindex(b"HTTP/1.1 ")
        assert wire.state == "closed"

    play(test)


def test_damage_behind_an_answer_that_its_client_does_not_take_ends_the_connection():
    async def test(scene, connection, wire):
        write = wire.writelines

        def write_and_fill(chunks):
            write(chunks)
            connection.pause_writing()

        wire.writelines = write_and_fill
        scene.may_answer.clear()
        connection.data_received(
            REQUEST + b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        await scene.turn()
        scene.may_answer.set()
        await scene.turn()
        assert wire.sent.endswith(b"ok"), "the next waits until the client takes this"
        connection.data_received(b"x\r\n")
        assert wire.sent.count(b"HTTP/1.1 200 ") == 1
        assert wire.sent.count(b"HTTP/1.1 400 ") == 1
        assert wire.state == "closed"

    play(test)


def test_a_client_that_goes_takes_the_request_with_it_that_others_wait_behind():
    async def test(scene, connection, wire):
        scene.may_answer.clear()
        connection.data_received(REQUEST * 3)
        await scene.turn()
        wire.state = "closed"
        connection.connection_lost(None)
        await scene.turn()
        assert scene.gone == 1

    play(test)


def test_a_connection_that_is_over_is_no_garbage():
    """The collector comes by so rarely that what waits for it would be a leak."""

    async def run():
        scene = Scene()
        gc.collect()
        gc.disable()
        try:
            connection, wire = scene.connect()
            connection.data_received(REQUEST + HEAD)
            await scene.turn()
            assert wire.sent.endswith(b"ok")
            wire.state = "closed"
            connection.connection_lost(None)
            await scene.turn()
            gone = weakref.ref(connection)
            del connection, wire
            assert gone() is None
        finally:
            gc.enable()

    asyncio.run(run())
