"""Clients beside a test: some that ask without pause, and one that takes all the room there is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import httpx
import numpy as np
from serving import Answer, Client, Server, ask, wait_for


def occupy(server: Server, pool: Executor, model: str, value: float = 1.0) -> Future[Answer]:
    """Ask a `TINY` server about twice the rows that its arena holds; the request.

    Its first half fills the arena, and it takes the one seat in the waiting room until the rest is
    in, too. That it was accepted is certain as soon as another request is refused.
    """
    rows = server.client.get(f"/v2/models/{model}/config").json()["max_batch_size"]
    assert rows < 64
    request = pool.submit(ask, server, model, np.full((2 * rows, 2), value))
    wait_for(lambda: server.predict(model, [[1, 2]], timeout=1).status == 429, "a full house")
    return request


class Load:
    """Clients that ask without pause until told to stop, and check every answer.

    Each request has its own payload; `check(answer, x)` raises if the answer is not right.
    """

    def __init__(
        self,
        server: Server,
        model: str,
        check: Callable[[Answer, np.ndarray], None],
        *,
        clients: int = 6,
        rows: int = 3,
    ) -> None:
        self._server, self._model, self._check = server, model, check
        self._rows = rows
        self._stop = threading.Event()
        self.answered = 0
        #: Whether a closed connection, or 503, is an answer, too: the front-end is not there.
        self.tolerates_absence = False
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(clients)
        self._clients = [self._pool.submit(self._ask, number) for number in range(clients)]

    def _ask(self, number: int) -> None:
        client = Client(self._server.url)
        generator = np.random.default_rng(number)
        try:
            for count in range(10**6):
                if self._stop.is_set():
                    return
                rows = int(generator.integers(1, self._rows + 1))
                x = np.empty((rows, 2), np.float32)
                x[:, 0] = number * 100_000 + count
                x[:, 1] = np.arange(rows)
                try:
                    answer = client.predict(self._model, x, binary=count % 3 > 0)
                except httpx.TransportError:
                    if not self.tolerates_absence:
                        raise
                    client.close()
                    client = Client(self._server.url)
                    continue
                if answer.status == 503 and self.tolerates_absence:
                    continue
                self._check(answer, x)
                with self._lock:
                    self.answered += 1
        finally:
            client.close()

    def wait_answers(self, more: int) -> None:
        """Wait until so many more requests are answered, or a client has failed."""
        goal = self.answered + more
        wait_for(
            lambda: self.answered >= goal or any(client.done() for client in self._clients),
            f"{more} more answers",
            60,
        )
        for client in self._clients:
            if client.done():
                client.result()

    def stop(self) -> None:
        """Let every client finish its request; raise what any of them raised."""
        self._stop.set()
        for client in self._clients:
            client.result(timeout=60)
        self._pool.shutdown()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
