"""Writes leave in pairs, in order, and none is kept for ever."""

import asyncio

from server.http_api.corked import CorkedTransport


class Sink:
    def __init__(self):
        self.sent = []
        self.closed = False

    def write(self, data):
        self.sent.append(data)

    def writelines(self, chunks):
        self.sent.append(b"".join(chunks))

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed

    def get_extra_info(self, name):
        return self if name == "transport" else name


def corked(scenario):
    """Run `scenario` over a corked transport; what was sent by when it ended, and later."""

    async def run():
        sink = Sink()
        scenario(CorkedTransport(sink, asyncio.get_running_loop()))
        at_once = list(sink.sent)
        await asyncio.sleep(0)
        return at_once, sink.sent, sink.closed

    return asyncio.run(run())


def test_head_and_body_leave_in_one_write():
    def respond(transport):
        transport.write(b"head")
        transport.write(b"body")

    assert corked(respond) == ([b"headbody"], [b"headbody"], False)


def test_a_lone_write_leaves_when_the_loop_comes_round():
    at_once, later, _ = corked(lambda transport: transport.write(b"continue"))
    assert at_once == []
    assert later == [b"continue"]


def test_several_writes_keep_their_order():
    def stream(transport):
        for number in range(5):
            transport.write(b"%d" % number)

    _, later, _ = corked(stream)
    assert b"".join(later) == b"01234"


def test_closing_sends_what_is_held_back_first():
    def hang_up(transport):
        transport.write(b"sorry")
        transport.close()
        assert transport.is_closing()

    assert corked(hang_up) == ([b"sorry"], [b"sorry"], True)


def test_nothing_is_sent_to_a_client_that_has_gone():
    def lose(transport):
        transport.write(b"head")
        transport.get_extra_info("transport").closed = True
        transport.write(b"body")
        transport.write(b"more")

    assert corked(lose) == ([], [], True)


def test_the_rest_is_the_transports_own():
    def ask(transport):
        assert transport.get_extra_info("peername") == "peername"

    corked(ask)
