"""The guard of gRPC's servers, over servers that end when a test says so."""

import asyncio

from server.grpc_api import server as module
from server.grpc_api.server import GrpcServer


class Serving:
    """A server that has ended, or lives on."""

    def __init__(self, *, has_ended=False):
        self.started = asyncio.Event()
        self._has_ended = has_ended

    async def start(self):
        self.started.set()

    async def wait_for_termination(self):
        if self._has_ended:
            raise UnicodeDecodeError("utf-8", b"", 0, 1, "a path that is none")
        await asyncio.Event().wait()


def test_a_server_that_can_not_be_replaced_now_is_replaced_later(monkeypatch, caplog):
    monkeypatch.setattr(module, "_AGAIN_S", 0.0)
    last = Serving()
    made = [RuntimeError("no descriptors"), Serving(has_ended=True), last]

    def make():
        found = made.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def run():
        servers = object.__new__(GrpcServer)
        servers._servers = [Serving(has_ended=True)]
        servers._make = make
        guard = asyncio.create_task(servers._guard(0))
        await asyncio.wait_for(last.started.wait(), 30)
        assert servers._servers == [last]
        assert not guard.done()
        guard.cancel()

    asyncio.run(run())
    assert "no gRPC server could be started: no descriptors" in caplog.text
