"""The HTTP connection against servers in this process that behave, misbehave and stall."""

import asyncio
import contextlib
import time

import pytest
from ensembled_client.load.http_connection import HttpLoadConnection
from ensembled_client.load.loops import ClosedLoadLoop, OpenLoadLoop
from ensembled_client.load.options import LoadTarget
from ensembled_client.load.schedule import KernelTimer, LoopTimer, Schedule
from ensembled_client.load.stats import RequestStats, Window
from ensembled_client.load.workload import Workload

DEADLINE_S = 30
REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
BODY = b'{"outputs":[{"name":"output","datatype":"FP32","shape":[1,2],"data":[1,2]}]}'
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


class Server:
    """Answers request number n with `answers[n]`, the last one for ever; None closes."""

    def __init__(self, *answers):
        self.answers = answers
        self.requests = 0
        self.connections = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    number = min(self.requests, len(self.answers) - 1)
                    self.requests += 1
                    await self.may_answer.wait()
                    answer = self.answers[number]
                    if answer is None:
                        return
                    pieces = answer if isinstance(answer, list) else [answer]
                    for piece in pieces:
                        writer.write(piece)
                        await writer.drain()
                    if pieces[-1] is not GOOD and b"connection: close" in pieces[0]:
                        return
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def serving(*answers):
    server = Server(*answers)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield server, LoadTarget.of(f"http://127.0.0.1:{port}", "m", "binary")
    finally:
        listening.close()
        await listening.wait_closed()


def run(main):
    async def bounded():
        async with asyncio.timeout(DEADLINE_S):
            await main()

    asyncio.run(bounded())


async def closed(target, count, connections=1, **options):
    """What a closed loop records of so many requests."""
    stats = RequestStats(Window(0))
    loop = ClosedLoadLoop(
        new_connection=lambda on_result: HttpLoadConnection(on_result, target, None, 5),
        requests=Workload(1, {1: (REQUEST,)}).cycles(),
        stats=stats,
        connections=connections,
        rows=1,
        count=count,
    )
    loop.start(0)
    try:
        await loop.done.wait()
    finally:
        await loop.close()
    return stats


def test_one_connection_carries_one_request_after_the_other():
    async def main():
        async with serving(GOOD) as (server, target):
            stats = await closed(target, 50, connections=3)
            assert (stats.succeeded, stats.errors) == (50, {})
            assert (server.requests, server.connections) == (50, 3)

    run(main)


CHUNKED = [
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"%x\r\n" % len(BODY[:20]),
    BODY[:20] + b"\r\n%x\r\n" % len(BODY[20:]),
    BODY[20:],
    b"\r\n0\r\n\r\n",
]


@pytest.mark.parametrize(
    ("answer", "connections"),
    [
        (CHUNKED, 1),
        ([GOOD[:7], GOOD[7:60], GOOD[60:]], 1),
        ([b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", BODY], 5),
        ([b"HTTP/1.1 200 OK\r\nconnection: close\r\n" + GOOD[17:]], 5),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", GOOD], 1),
    ],
)
def test_other_ways_to_send_a_good_answer(answer, connections):
    async def main():
        async with serving(answer) as (server, target):
            stats = await closed(target, 5)
            assert (stats.succeeded, stats.errors) == (5, {})
            assert server.connections == connections

    run(main)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (None, "connection: the server closed the connection without a response"),
        (
            [b"HTTP/1.1 200 OK\r\nconnection: close\r\nContent-Length: 9\r\n\r\n", b"x"],
            "connection: the server closed the connection within a response",
        ),
        (b"hello\r\n\r\n", "protocol: not an HTTP/1.1 response: Expected HTTP/, RTSP/ or ICE/"),
        (GOOD + b"more", "protocol: the server sent more than one response to one request"),
        (
            b'HTTP/1.1 503 X\r\nContent-Length: 17\r\n\r\n{"error": "no 1"}',
            "503: no N",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            "wrong response: it has no outputs",
        ),
    ],
)
def test_a_bad_answer_is_an_error_and_the_next_request_is_fine(answer, error):
    async def main():
        async with serving(GOOD, answer, GOOD) as (server, target):
            stats = await closed(target, 4)
            assert stats.errors == {error: 1}
            assert (stats.succeeded, server.requests) == (3, 4)

    run(main)


def test_a_server_that_is_gone_is_an_error_for_each_request():
    async def main():
        async with serving(GOOD) as (_, target):
            pass
        stats = await closed(target, 3)
        (kind,) = stats.errors
        assert kind.startswith("connect: ")
        assert (stats.errors[kind], stats.succeeded) == (3, 0)

    run(main)


def test_giving_up_closes_the_connection():
    async def main():
        async with serving(GOOD) as (server, target):
            server.may_answer.clear()
            ended = asyncio.get_running_loop().create_future()
            connection = HttpLoadConnection(
                lambda _, result: ended.set_result(result), target, None, 5
            )
            connection.send(REQUEST)
            while server.requests == 0:  # noqa: ASYNC110
                await asyncio.sleep(0)
            connection.cancel("no answer")
            assert (await ended).error == "no answer"
            assert not connection.is_open
            server.may_answer.set()
            await connection.close()

    run(main)


@pytest.mark.parametrize("connections", [2, 64])
def test_what_was_due_during_a_stall_waited_at_least_until_its_end(connections):
    """No coordinated omission, over real sockets: nothing here depends on how fast they are."""
    due_in_stall = 40

    async def main():
        async with serving(GOOD) as (server, target):
            server.may_answer.clear()
            stats = RequestStats(Window(0))
            ended = []
            record = stats.record_end

            def spy(intended_ns, sent_ns, now_ns, rows, result):
                ended.append((intended_ns, now_ns))
                record(intended_ns, sent_ns, now_ns, rows, result)

            stats.record_end = spy
            loop = OpenLoadLoop(
                new_connection=lambda on_result: HttpLoadConnection(on_result, target, None, 5),
                requests=Workload(1, {1: (REQUEST,)}).cycles(),
                stats=stats,
                max_connections=connections,
                arrivals=Schedule(rate=1000, count=60).arrivals(),
            )
            await loop.open()
            start_ns = time.monotonic_ns()
            loop.start(start_ns)
            # Scheduled, whether or not a connection was free.
            while stats.sent < due_in_stall:  # noqa: ASYNC110
                await asyncio.sleep(0)
            released_ns = time.monotonic_ns()
            server.may_answer.set()
            await loop.done.wait()
            await loop.close()

            assert sorted(due for due, _ in ended) == [start_ns + i * 10**6 for i in range(60)]
            stalled = sorted(ended)[:due_in_stall]
            assert all(now_ns >= released_ns for _, now_ns in stalled)
            # And so in the histogram: request i has waited at least from its due time on.
            for i in range(due_in_stall):
                least_ms = (released_ns - start_ns) / 1e6 - i
                share = (60 - i) / 60  # at most so many were faster
                assert stats.latency.quantiles_ms([share])[0] >= least_ms * 0.999

    run(main)


@pytest.mark.parametrize("kind", [KernelTimer, LoopTimer])
def test_alarms_never_ring_too_early_and_can_be_set_anew(kind):
    async def main():
        rung = asyncio.Event()
        alarm = kind(rung.set)
        try:
            alarm.set(time.monotonic_ns() + 3600 * 10**9)
            at_ns = time.monotonic_ns() + 3 * 10**6
            alarm.set(at_ns)
            await rung.wait()
            # The loop's own timers may ring early by their resolution.
            assert time.monotonic_ns() >= at_ns - 10**6
            rung.clear()
            alarm.set(0)
            await rung.wait()
        finally:
            alarm.close()
            alarm.close()

    run(main)
