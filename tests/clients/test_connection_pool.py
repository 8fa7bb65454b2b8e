"""Connections are kept, reused and closed."""

import asyncio
import threading

import numpy as np
import pytest
from ensembled_client import (
    AsyncEnsembleClient,
    DeadlineExceeded,
    EnsembleClient,
    UnknownModel,
    http_transport,
)
from stub_servers import HttpServer


class Counting(HttpServer):
    """Counts its connections, and answers infer requests when a test says so."""

    def __init__(self, model):
        super().__init__(model)
        self.connections = 0
        self.go = threading.Event()
        self.go.set()
        self.waiting = threading.Semaphore(0)
        answer = model.infer

        def infer(*arguments):
            self.waiting.release()
            assert self.go.wait(30)
            return answer(*arguments)

        model.infer = infer

    def process_request(self, request, client_address):
        self.connections += 1
        super().process_request(request, client_address)


@pytest.fixture
def server(model):
    with Counting(model) as server:
        yield server


def test_one_after_another_needs_one(server, make):
    client = make(server.url)
    for _ in range(5):
        client.predict("duo", [[1, 2]])
    assert server.connections == 1


def test_a_connection_that_the_server_has_closed_is_not_used(server, make):
    client = make(server.url)
    for count in (1, 2, 3):
        assert client.predict("duo", [[1, 2]]).timing.tries == 1
        assert server.connections == count
        server.hang_up()


def test_connections_that_were_idle_for_long_are_closed(server, make, monkeypatch):
    monkeypatch.setattr(http_transport, "_KEEP_IDLE_S", 0.0)
    client = make(server.url)
    client.predict("duo", [[1, 2]])  # metadata, configuration, and this
    assert server.connections == 3


def test_threads_wait_for_a_connection(server):
    x = np.ones((1, 2), np.float32)
    with EnsembleClient(server.url, connections=2) as client:
        client.predict("duo", x)
        assert server.waiting.acquire(timeout=30)
        threads = [threading.Thread(target=client.predict, args=("duo", x)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert server.connections <= 2
    assert len(server.model.requests) == 7


def test_tasks_wait_for_a_connection(server):
    async def ask_all():
        async with AsyncEnsembleClient(server.url, connections=2) as client:
            return await asyncio.gather(*(client.predict("duo", [[i, i]]) for i in range(20)))

    predictions = asyncio.run(ask_all())
    assert [prediction.values[0, 0] for prediction in predictions] == list(range(1, 21))
    assert server.connections <= 2


def test_no_connection_is_free_in_time(server, monkeypatch):
    monkeypatch.setattr("ensembled_client.session._GRACE_S", 0.0)

    async def ask():
        async with AsyncEnsembleClient(server.url, connections=1) as client:
            await client.predict("duo", [[1, 2]])
            server.go.clear()
            first = asyncio.create_task(client.predict("duo", [[1, 2]]))
            await asyncio.to_thread(server.waiting.acquire)
            await asyncio.to_thread(server.waiting.acquire)
            with pytest.raises(DeadlineExceeded, match="no connection became free"):
                await client.predict("duo", [[1, 2]], timeout=0.05)
            server.go.set()
            assert (await first).values.tolist() == [[2, 3]]

    asyncio.run(ask())


def test_a_task_that_is_cancelled_gives_its_connection_back(server):
    async def ask():
        async with AsyncEnsembleClient(server.url, connections=1) as client:
            await client.predict("duo", [[1, 2]])
            await asyncio.to_thread(server.waiting.acquire)
            server.go.clear()
            for _ in range(3):
                task = asyncio.create_task(client.predict("duo", [[1, 2]]))
                await asyncio.to_thread(server.waiting.acquire)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            server.go.set()
            return await client.predict("duo", [[5, 6]])

    assert asyncio.run(ask()).values.tolist() == [[6, 7]]
    assert server.connections == 4


def test_through_a_proxy(model, make, monkeypatch):
    """The proxy here is the server itself: it gets whole URLs."""
    with HttpServer(model) as server:
        monkeypatch.setenv("http_proxy", server.url)
        monkeypatch.setenv("no_proxy", "")
        client = make("http://elsewhere.invalid")
        with pytest.raises(UnknownModel):  # the stub knows paths only
            client.is_live()
        assert model.seen == ["http://elsewhere.invalid:80/v2/health/live"]
        client.__exit__(None, None, None)
