"""The log's writer: nobody waits for it, and what it loses it counts."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys

import pytest

from server.supervision.child import StatusReader
from workers.runtime.logs import log_environment, log_settings

SCRIPT = """
import logging, os, sys, threading, warnings
from workers.runtime.logs import ProcessName
from workers.runtime.logs import flush, set_up_logging
set_up_logging(ProcessName("combiner"), "info", "human")
{body}
flush(20)
"""


def said(body, stderr=subprocess.PIPE):
    """What a process says on stderr, without the times."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body)], stderr=stderr, check=True, timeout=60
    )
    if done.stderr is None:
        return []
    return [line.partition(",")[2][4:] for line in done.stderr.decode().splitlines()]


def test_children_get_level_and_format_from_their_environment():
    assert log_settings(log_environment("debug", "json")) == ("debug", "json")
    assert log_settings({}) == ("info", "human")


def test_warnings_and_forgotten_exceptions_go_to_the_log():
    lines = said("""
warnings.warn("old")
def fail(): raise ValueError("oh")
thread = threading.Thread(target=fail, name="t"); thread.start(); thread.join()
class Bad:
    def __del__(self): raise KeyError("late")
bad = Bad()
bad = None
""")
    told = [line for line in lines if line.startswith(("WARNING", "ERROR"))]
    assert "old" in told[0]
    assert told[1] == "ERROR ensembled combiner: t failed"
    assert told[2].startswith("ERROR ensembled combiner: an exception was ignored: ")


def test_a_log_without_a_reader_loses_lines_and_says_how_many():
    reader, writer = os.pipe()
    body = """
for number in range(5000): logging.info("%d", number)
print("done", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(body=body)], stderr=writer, stdout=subprocess.PIPE
    )
    os.close(writer)
    with process, open(reader, "rb") as log:
        assert process.stdout.readline() == b"done\n"  # it did not wait for us
        lines = log.read().decode().splitlines()
    told = [line for line in lines if "lines of the log were lost" in line]
    numbers = [int(line.split(": ")[1]) for line in lines if line not in told]
    assert numbers == sorted(set(numbers))
    assert sum(int(line.split(": ")[1].split()[0]) for line in told) + len(numbers) == 5000


def test_a_pipe_that_someone_else_made_non_blocking_is_waited_for():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 1000)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(body='logging.info("last")')], stderr=writer
    )
    os.close(writer)
    with process, open(reader, "rb") as log:
        assert log.read().decode().endswith("last\n")


def test_flushing_does_not_take_long_when_nobody_reads():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 1000)
    os.set_blocking(writer, True)
    script = SCRIPT.replace("flush(20)", "flush(); os._exit(0)")
    process = subprocess.Popen(
        [sys.executable, "-c", script.format(body='logging.info("last")')], stderr=writer
    )
    with process:
        assert process.wait(20) == 0
    os.close(writer)
    os.close(reader)


ROLE = """
import asyncio, msgspec
from workers.runtime.bootstrap import Started, run_role
from workers.runtime.logs import ProcessName
class Spec(msgspec.Struct): pass
def main(spec, commands, status):
    {first}
    raise asyncio.CancelledError("why")
run_role(lambda _: ProcessName("combiner"), Spec, main)
"""


def run_role(script):
    """Its status lines on stdout, its log on stderr."""
    return subprocess.run(
        [sys.executable, "-c", script, "1", "2"],
        input=b"{}\n",
        capture_output=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("first", "told"), [("status.send(Started())", ["Started", "Failed"]), ("pass", ["Failed"])]
)
def test_why_a_process_ends_is_told_by_it_or_by_the_supervisor(first, told):
    done = run_role(ROLE.format(first=first))
    assert done.returncode == 1
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()] == told
    logged = done.stderr.decode()
    assert ("ERROR ensembled combiner: the process failed" in logged) == (len(told) > 1)
    assert ("CancelledError: why" in logged) == (len(told) > 1)


def test_of_an_error_as_long_as_a_book_the_beginning_is_told():
    script = ROLE.format(first='raise ValueError("\\x01" * 100_000)')
    done = run_role(script)

    async def heard():
        reader = StatusReader(lambda _: None)
        reader.feed(done.stdout)
        return await reader.up

    assert asyncio.run(heard()).startswith("\x01" * 1000)
