"""What a connection waits for, and for how long, by a clock of the test's."""

import asyncio

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from server.front_end_spec import ClientLimits
from server.http_api.connections import Connections

LIMITS = ClientLimits(header_s=1, body_s=2, idle_s=3, write_s=4, header_bytes=2000)
HEAD = b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n"
REQUEST = HEAD + b"abc"


class Wire:
    """A transport that keeps what is written."""

    def __init__(self):
        self.sent = b""
        self.unsent_bytes = 0
        self.state = "open"

    def write(self, data):
        self.sent += data

    def writelines(self, chunks):
        self.sent += b"".join(chunks)

    def get_write_buffer_size(self):
        return self.unsent_bytes

    def is_closing(self):
        return self.state != "open"

    def close(self):
        self.state = "closed"

    def abort(self):
        self.state = "aborted"

    def get_extra_info(self, _name, default=None):
        return default

    def pause_reading(self):
        pass

    resume_reading = pause_reading


class Scene:
    """A connection, its transport, and an application that answers when it may."""

    def __init__(self):
        self.connections = Connections(LIMITS, most=2)
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.config = Config(
            self.answer,
            http=self.connections.make,
            interface="asgi3",
            ws="none",
            lifespan="off",
            log_config=None,
            proxy_headers=False,
        )
        self.config.load()
        self.state = ServerState()
        self.began = self.connections.now

    def connect(self):
        connection, wire = (
            self.connections.make(config=self.config, server_state=self.state, app_state={}),
            Wire(),
        )
        connection.connection_made(wire)
        return connection, wire

    async def answer(self, _scope, receive, send):
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            return
        await self.may_answer.wait()
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
        connection.look(scene.began)
        connection.look(scene.began + limit_s - 0.01)
        assert (wire.state, wire.sent) == ("open", b"")
        connection.look(scene.began + limit_s)
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
        connection.look(0.0)
        connection.look(1e9)
        assert wire.state == "open"
        scene.may_answer.set()
        await scene.turn()
        assert wire.sent.endswith(b"ok")
        connection.look(1e9 + 1)  # from now on the client's time counts
        connection.look(1e9 + 1.9)
        assert wire.state == "open"
        connection.look(1e9 + 2)
        assert b" 408 " in wire.sent

    play(test)


def test_who_asks_between_two_looks_is_not_idle():
    async def test(scene, connection, wire):
        for second in range(20):
            connection.data_received(REQUEST)
            await scene.turn()
            connection.look(float(second))
        assert wire.state == "open"
        assert wire.sent.count(b"ok") == 20

    play(test)


def test_an_answer_that_is_not_taken():
    async def test(scene, connection, wire):
        connection.data_received(REQUEST)
        await scene.turn()
        wire.unsent_bytes = 1
        connection.look(0.0)
        connection.look(3.9)
        assert wire.state == "open"
        connection.look(4.0)
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
    "frame",
    [b"Content-Length: 40\r\n", b"Transfer-Encoding: chunked\r\n"],
    ids=["length", "chunks"],
)
def test_the_body_of_a_request_that_asks_for_another_protocol_is_no_request(frame):
    async def test(scene, connection, wire):
        connection.data_received(b"POST / HTTP/1.1\r\n" + _UPGRADE + frame + b"\r\n")
        await scene.turn()
        assert wire.sent.startswith(b"HTTP/1.1 400 ")
        assert b"Upgrade" in wire.sent
        assert wire.state == "closed"

    play(test)


def test_a_request_without_a_body_that_asks_for_another_protocol_is_answered_in_this_one():
    async def test(scene, connection, wire):
        connection.data_received(b"GET / HTTP/1.1\r\n" + _UPGRADE + b"\r\n")
        await scene.turn()
        connection.data_received(REQUEST)
        await scene.turn()
        assert wire.sent.count(b"HTTP/1.1 200 ") == 2
        assert wire.state == "open"

    play(test)
