"""Clients that ask without end: over every protocol, payloads of their own, every answer judged.

Runs in the campaign's event loop. Each client has one request (or one stream of a few) at a time.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.chaos.client import Ask, GrpcLane, HttpLane, Reply
from benchmarks.chaos.judging import Judge, deadline_of
from benchmarks.chaos.rates import Rates
from benchmarks.chaos.scene import COLUMNS, Floats, Model, Scene

__all__ = ["Lanes", "Load", "payload"]

#: An answer that has not come by then never comes: the longest of what may happen to a row, five
#: deaths of its worker in company and alone, is over long before.
_LIMIT_S = 60.0
_BIG_ROWS = 600
_NUMBERS = 4096


def payload(model: Model, serial: int, rows: int) -> Floats:
    """Rows that no other request has, FP32 [rows, COLUMNS]."""
    if model.is_softmax:
        generator = np.random.default_rng(serial)
        return generator.normal(0.0, 2.0, (rows, COLUMNS)).astype(np.float32)
    x = np.empty((rows, COLUMNS), np.float32)
    x[:, 0] = serial % _NUMBERS
    x[:, 1] = serial // _NUMBERS % _NUMBERS
    x[:, 2] = serial // _NUMBERS**2
    x[:, 3] = np.arange(rows)
    return x


class Lanes:
    """A client's ways to the server, and how it judges what comes back on them."""

    def __init__(self, address: str, grpc: str, judge: Judge) -> None:
        self._http, self._grpc = HttpLane(address), GrpcLane(grpc)
        self._judge = judge

    async def ask(self, model: Model, asks: list[Ask], way: str) -> list[Reply]:
        """Ask in one of the ways "raw", "json", "grpc" and "stream"; one by one but for the last.

        Every reply is judged.
        """
        limit_s = max(deadline_of(model, ask) for ask in asks) + _LIMIT_S
        if way == "stream":
            start = time.monotonic()
            replies = await self._grpc.stream(asks, limit_s)
            for ask, reply in zip(asks, replies, strict=True):
                self._judge.judge(model, ask, reply, (start, time.monotonic()))
            return replies
        replies = []
        for ask in asks:
            start = time.monotonic()
            if way == "grpc":
                reply = await self._grpc.infer(ask, limit_s)
            else:
                reply = await self._http.infer(ask, limit_s, as_json=way == "json")
            self._judge.judge(model, ask, reply, (start, time.monotonic()))
            replies.append(reply)
        return replies

    async def close(self) -> None:
        """Close the connections."""
        self._http.close()
        await self._grpc.close()


class Load:
    """Clients in a closed loop.

    Args:
        scene: what is served.
        addresses: of HTTP and of gRPC.
        judge: of all replies.
        clients: how many there are.
        seed: of what they ask.
        serial: gives numbers that no payload had yet.
        pause_s: of a client between two requests, on the average.
        period_s: if given, a client asks whenever so much time has passed, or as soon as it can
            after that, instead; latencies count from when it should have asked.
    """

    def __init__(
        self,
        scene: Scene,
        addresses: tuple[str, str],
        judge: Judge,
        *,
        clients: int,
        seed: int,
        serial: Callable[[], int],
        pause_s: float = 0.0,
        period_s: float = 0.0,
    ) -> None:
        self._models = list(scene.models.values())
        self._addresses = addresses
        self._judge = judge
        self._pause_s, self._period_s = pause_s, period_s
        self._serial = serial
        self._seeds = [seed * 1000 + number for number in range(clients)]
        self._goes_on = True
        self._tasks: list[asyncio.Task[None]] = []
        self.rates = Rates()
        #: Seconds from question to answer, as (when it came, how long it took).
        self.latencies: list[tuple[float, float]] = []

    def start(self) -> None:
        """Let the clients begin."""
        self._goes_on = True
        self._tasks = [asyncio.create_task(self._client(seed)) for seed in self._seeds]

    async def stop(self) -> None:
        """Let every client finish what it has asked.

        Raises:
            Exception: what any of them raised: an answer that can't be understood.
        """
        self._goes_on = False
        await asyncio.gather(*self._tasks)

    def check(self) -> None:
        """Raise what a client raised, if one did."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _client(self, seed: int) -> None:
        choose = random.Random(seed)
        lanes = Lanes(*self._addresses, self._judge)
        due = time.monotonic() + choose.random() * self._period_s
        try:
            while self._goes_on:
                model = choose.choice(self._models)
                way = choose.choice(("raw", "raw", "json", "grpc", "stream"))
                count = choose.randint(2, 4) if way == "stream" else 1
                asks = [self._ask(model, choose) for _ in range(count)]
                if count > 1:  # answers come in their order: one must not wait for another's sake
                    asks = [dataclasses.replace(ask, parameters={}) for ask in asks]
                if self._period_s:
                    due += self._period_s
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                start = due if self._period_s else time.monotonic()
                replies = await lanes.ask(model, asks, way)
                now = time.monotonic()
                self.rates.add(now, sum(reply.status == 200 for reply in replies))
                self.latencies.append((now, now - start))
                if self._pause_s:
                    await asyncio.sleep(choose.expovariate(1 / self._pause_s))
        finally:
            await lanes.close()

    def _ask(self, model: Model, choose: random.Random) -> Ask:
        """A request of few rows, or now and then of more than the arena has room for."""
        rows = choose.randint(1, 12)
        parameters: dict[str, Any] = {}
        if not model.is_softmax and len(self._models) > 1:
            if choose.random() < 0.03 and "slow" not in model.adds:
                rows = _BIG_ROWS
            elif choose.random() < 0.2:
                names = choose.sample(list(model.adds), choose.randint(1, len(model.adds)))
                parameters["members"] = ",".join(names)
            elif choose.random() < 0.1:
                parameters["timeout"] = choose.choice((50_000, 300_000, 20_000_000))
        return Ask(model.name, payload(model, self._serial(), rows), parameters)
