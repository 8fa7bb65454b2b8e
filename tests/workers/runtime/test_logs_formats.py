"""Whatever is said in it, a line of the log is one line, and ours."""

import json
import logging
import re
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.runtime.logs import MAX_BYTES, HumanFormatter, JsonFormatter, ProcessName

WORKER = ProcessName("worker", "cpu:0")
#: The beginning of a line for people that the server has written.
HEAD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ ensembled")
#: Lone surrogates, control characters and separators of lines included.
anything = st.text(st.characters(codec=None, categories=None), max_size=200)
nasty = anything | st.sampled_from(
    [
        "a\n2026-01-01 00:00:00,000 INFO ensembled: forged",
        'a\r\n{"level": "INFO"}',
        "\x1b[2J\x9b1A\u2028\u2029\x85\u202e",
        "\ud800",
        "x" * 3 * MAX_BYTES,
        "\n" * 2 * MAX_BYTES,
        "é" * MAX_BYTES,
    ]
)


def record(message, exception=None, **extras):
    told = logging.LogRecord("a.b", logging.WARNING, "f.py", 1, "said: %s", (message,), None)
    for key, value in extras.items():
        setattr(told, key, value)
    if exception is not None:
        try:
            raise ValueError(exception)
        except ValueError as error:
            told.exc_info = (ValueError, error, error.__traceback__)
    return told


@given(nasty, nasty, st.none() | nasty)
def test_nothing_forges_a_line_for_people(message, extra, exception):
    told = record(message, exception, request_id=extra)
    text = HumanFormatter(WORKER).format(told)
    first, *others = text.split("\n")
    assert HEAD.match(first)
    assert all(line.startswith("    ") for line in others)
    assert len(text.splitlines()) == 1 + len(others)
    assert not others or exception is not None
    for line in (first, *others):
        assert line.isprintable()
        assert len(line.encode()) < MAX_BYTES
    assert first.count(" request_id=") - message.count(" request_id=") >= bool(extra)


@given(nasty, nasty, st.none() | nasty)
def test_nothing_forges_a_line_of_json(message, extra, exception):
    told = record(message, exception, request_id=extra, level="mine", pid="mine")
    text = JsonFormatter(WORKER).format(told)
    assert len(text) < MAX_BYTES
    assert text.isascii()
    assert text.isprintable()
    document = json.loads(text)
    assert document["level"] == "WARNING"
    assert document["pid"] == told.process
    assert ("exception" in document) == (exception is not None)


def test_a_line_of_json_says_who_when_and_what():
    told = record("ä\n", "oh", request_id="r-1", model="all", rows=3)
    document = json.loads(JsonFormatter(WORKER).format(told))
    when = datetime.fromisoformat(document.pop("time"))
    assert abs(when.timestamp() - told.created) < 0.002
    assert when.utcoffset().total_seconds() == 0
    exception = document.pop("exception")
    assert exception.startswith("Traceback")
    assert exception.endswith("ValueError: oh")
    assert document == {
        "level": "WARNING",
        "role": "worker",
        "device": "cpu:0",
        "pid": told.process,
        "logger": "a.b",
        "message": "said: ä\n",
        "request_id": "r-1",
        "model": "all",
        "rows": 3,
    }
    assert "device" not in json.loads(JsonFormatter(ProcessName("supervisor")).format(told))


def test_a_line_for_people():
    text = HumanFormatter(WORKER).format(record("a b", request_id="r-1", model='a "b"', error=""))
    assert text.partition(" WARNING ")[2] == (
        'ensembled worker cpu:0: said: a b request_id=r-1 model="a \\"b\\""'
    )


def test_of_a_long_traceback_the_end_stays():
    text = JsonFormatter(WORKER).format(record("short", "x" * 9000 + "the end"))
    document = json.loads(text)
    assert document["message"] == "said: short"
    assert document["exception"].endswith("xthe end")
    assert len(text) > MAX_BYTES // 2


@pytest.mark.parametrize("formatter", [HumanFormatter(WORKER), JsonFormatter(WORKER)])
def test_arguments_that_do_not_fit_are_told_all_the_same(formatter):
    told = logging.LogRecord("a", logging.INFO, "f.py", 1, "%d rows", ("three",), None)
    assert "%d rows ('three',)" in formatter.format(told)
