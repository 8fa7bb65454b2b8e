import asyncio
import os
import subprocess
import sys
from pathlib import Path

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


FOLLOWING = """
import sys
from workers.runtime.bootstrap import follow_supervisor

def told(line):
    print(line, flush=True)

follow_supervisor(sys.stdin.buffer.raw, told, lambda: print("end", flush=True))
import threading
threading.Event().wait()
"""


@pytest.mark.process
def test_commands_are_whole_lines_and_their_end_is_the_processs():
    child = subprocess.Popen(
        [sys.executable, "-c", FOLLOWING],
        cwd=Path(__file__).parents[3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        long = b"x" * 200_000
        child.stdin.write(b"one\n" + long + b"\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"b'one\\n'\n"
        assert len(child.stdout.readline()) == len(long) + 6
        child.stdin.write(b"half a comm")  # its supervisor dies
        child.stdin.close()
        assert child.stdout.read() == b"end\n"
    assert child.returncode == 0
