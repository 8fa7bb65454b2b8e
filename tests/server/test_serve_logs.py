"""The log of the real server: what it looks like, and that whatever becomes of it harms nobody."""

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from serving import configuration, fake, wait_for

pytestmark = pytest.mark.process

POISON = 666.0


def documents(server):
    """The log, which is whole lines of JSON and nothing else."""
    text = server.stderr
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_every_process_logs_lines_of_json(serve):
    config = configuration({"a": fake(1, fail="raise", fail_value=POISON)}, log_format="json")
    server = serve(config)
    assert server.predict("a", [[POISON, 0]]).status == 500
    # A thread writes what the worker has logged: whoever is killed at once may not have told it.
    wait_for(lambda: "failed on a row" in server.stderr, "the worker's line")
    server.kill("worker cpu:0")
    server.kill("combiner")
    wait_for(lambda: server.predict("a", [[1, 2]]).status == 200, "both to be back")
    assert server.stop() == 0
    told = documents(server)
    (failed,) = [line for line in told if "failed on a row" in line["message"]]
    assert (failed["role"], failed["device"], failed["level"]) == ("worker", "cpu:0", "WARNING")
    assert {line["message"] for line in told if line["role"] == "supervisor"} >= {
        "worker cpu:0 died; restarting",
        "combiner died; restarting",
        "SIGTERM: stopping",
    }
    assert len({line["pid"] for line in told}) >= 2


def serve_and_fail(server, failures):
    """Have the worker log each failure; nobody may notice."""
    x = np.full((failures, 2), POISON, np.float32)
    assert server.predict("a", x).status == 500
    np.testing.assert_array_equal(server.predict("a", [[1, 2]]).values, [[2, 3]])
    server.kill("worker cpu:0")
    answered = wait_for(lambda: server.predict("a", [[1, 2]]), "the worker to be back")
    np.testing.assert_array_equal(answered.values, [[2, 3]])
    assert server.stop() == 0


FAILS = {"a": fake(1, fail="raise", fail_value=POISON)}


@pytest.mark.parametrize("redirect", ["2>/dev/full", "0<&- 2>&-"])
def test_a_log_that_can_not_be_written_harms_nobody(serve, redirect, tmp_path):
    server = serve(configuration(FAILS), redirect=redirect)
    if "&-" in redirect:  # nothing that is opened later gets the log
        for process in (server.process, *server.children()):
            files = [os.readlink(fd) for fd in Path(f"/proc/{process.pid}/fd").iterdir()]
            assert os.devnull in files
            assert not [file for file in files if file.startswith(str(tmp_path))], files
    serve_and_fail(server, 3)


def test_a_reader_that_does_not_read_the_log_harms_nobody(serve, tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(reader, b"x")
        server = serve(configuration(FAILS), redirect=f"2>{path}")
        serve_and_fail(server, 3)
        assert set(os.read(reader, 1 << 20)) == set(b"x")
    finally:
        os.close(reader)
