"""What calls leave behind, on a real server of gRPC in this process; only `Leftovers` collects."""

import asyncio
import gc

import grpc
import pytest

from server.grpc_api import leftovers as module
from server.grpc_api.leftovers import Leftovers, Methods

CALLS = 200
VALUE = "v" * 5000
METHOD = "/service/Method"


@pytest.fixture(autouse=True)
def no_other_collections():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def left_behind():
    """How many calls that are over are still in memory."""
    return sum(type(one).__name__ == "_HandlerCallDetails" for one in gc.get_objects())


async def echo(message, _):
    return message


async def call_often(handlers):
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(METHOD)
            for _ in range(CALLS):
                assert await call(b"abc", metadata=(("x-large", VALUE),)) == b"abc"
    finally:
        await server.stop(None)


def test_calls_leave_no_more_behind_than_what_is_allowed(monkeypatch):
    allowed = 4
    monkeypatch.setattr(module, "_MOST_BYTES", allowed * (len(VALUE) + module._CALL_BYTES))
    handlers = {METHOD: grpc.unary_unary_rpc_method_handler(echo)}
    before = left_behind()
    asyncio.run(call_often(Methods(handlers, Leftovers())))
    # At each collection one was still at work: that is found with everything.
    assert left_behind() - before <= allowed + module._EVERYTHING_EVERY


def test_without_that_they_do(monkeypatch):
    """If gRPC has learned to leave nothing behind, this module can go."""
    monkeypatch.setattr(module, "_MOST_BYTES", 1 << 40)
    handlers = {METHOD: grpc.unary_unary_rpc_method_handler(echo)}
    before = left_behind()
    asyncio.run(call_often(Methods(handlers, Leftovers())))
    assert left_behind() - before == CALLS


def test_now_and_then_everything_is_looked_through(monkeypatch):
    collected = []
    monkeypatch.setattr(module.gc, "collect", collected.append)
    leftovers = Leftovers()
    for _ in range(2 * module._EVERYTHING_EVERY):
        leftovers.add(module._MOST_BYTES)
    leftovers.add(0)
    assert collected == 2 * [*[1] * (module._EVERYTHING_EVERY - 1), 2]


def test_no_such_method():
    class Details:
        method = "/service/Other"
        invocation_metadata = (("x-text", "a"), ("x-bin", b"\0"))

    assert Methods({METHOD: object()}, Leftovers()).service(Details()) is None
