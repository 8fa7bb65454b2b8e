import asyncio
import os

import msgspec
import pytest

from workers.runtime.bootstrap import Failed, Started, StatusChannel


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    yield reading, writing
    for fd in (reading, writing):
        os.close(fd)


def lines(data):
    return [msgspec.json.decode(line) for line in data.splitlines()]


def test_a_status_is_a_line(pipe):
    reading, writing = pipe
    status = StatusChannel(writing)
    status.send(Failed("why"))
    assert not status.has_started
    status.send(Started())
    assert status.has_started
    assert lines(os.read(reading, 1 << 16)) == [
        {"type": "Failed", "error": "why"},
        {"type": "Started"},
    ]


def test_a_parent_that_is_gone_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    StatusChannel(writing).send(Started())
    os.close(writing)


def test_an_event_loop_never_waits_for_its_parent(pipe):
    reading, writing = pipe
    long = Failed("x" * 50_000)

    async def run():
        status = StatusChannel(writing)
        status.write_from(asyncio.get_running_loop())
        for _ in range(10):  # more than a pipe holds
            status.send(long)
        status.send(Started())
        return await asyncio.to_thread(read)

    def read():
        data = b""
        while not data.endswith(b'{"type":"Started"}\n'):
            data += os.read(reading, 1 << 16)
        return data

    assert lines(asyncio.run(run())) == [msgspec.to_builtins(long)] * 10 + [{"type": "Started"}]
