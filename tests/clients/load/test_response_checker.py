"""Checks of responses: good, degraded, wrong, or an error of some kind."""

import json

import pytest
from ensembled_client.load.http_connection import Response, ResponseChecker
from ensembled_client.load.stats import error_kind
from hypothesis import given
from hypothesis import strategies as st


def json_answer(rows=2, values=6, **parameters):
    output = {"name": "output", "datatype": "FP32", "shape": [rows, 3], "data": [0.5] * values}
    return {"outputs": [output], "parameters": parameters}


def plain(body, status=200, json_length=None):
    return Response(status, body, json_length)


def response(document, raw=None):
    text = json.dumps(document).encode()
    return plain(text + (raw or b""), json_length=None if raw is None else len(text))


def binary_answer(rows=2, size=24, **parameters):
    output = {
        "name": "output",
        "datatype": "FP32",
        "shape": [rows, 3],
        "parameters": {"binary_data_size": size},
    }
    return {"outputs": [output], "parameters": parameters}


def test_good_answers_are_fine():
    assert ResponseChecker().check(response(json_answer()), 2) == (None, False)
    assert ResponseChecker().check(response(binary_answer(), b"x" * 24), 2) == (None, False)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (response(json_answer(rows=1, values=3)), "has the shape [1, 3], the request 2 rows"),
        (response(json_answer(values=5)), "FP32 [2, 3]: cannot reshape"),
        (response({"outputs": []}), "no output"),
        (response([]), "is no infer response"),
        (response({"outputs": [{"name": "output"}]}), "is no infer response"),
        (plain(b"<html>"), "is no infer response"),
        (response(binary_answer(size=20), b"x" * 20), "FP32 [2, 3]: cannot reshape"),
        (response(binary_answer(), b"x" * 25), "longer than its outputs"),
        (plain(b"{}", json_length=9), "shorter than its JSON"),
    ],
)
def test_a_wrong_first_answer_is_an_error(answer, fault):
    result = ResponseChecker().check(answer, 2)
    assert fault in result.error
    assert result.error.startswith("wrong response: ")


def test_later_answers_are_as_long_as_the_first():
    judge = ResponseChecker()
    assert judge.check(response(binary_answer(), b"x" * 24), 2).error is None
    assert "as long as" in judge.check(response(binary_answer(), b"x" * 20), 2).error
    assert judge.check(response(binary_answer(rows=1, size=12), b"x" * 12), 1).error is None


@pytest.mark.parametrize("spaces", [(",", ":"), (", ", ": ")])
def test_every_degraded_answer_is_noticed(spaces):
    judge = ResponseChecker()
    for degraded in (False, True, True, False):
        text = json.dumps(json_answer(degraded=degraded), separators=spaces).encode()
        assert judge.check(plain(text), 2) == (None, degraded)


def test_raw_bytes_are_not_searched_for_degraded():
    raw = b'"degraded":true'.ljust(24)
    assert ResponseChecker().check(response(binary_answer(), raw), 2) == (None, False)


def test_errors_have_the_servers_words_without_their_numbers():
    def kind(status, body):
        return ResponseChecker().check(plain(body, status), 1).error

    assert (
        kind(429, b'{"error": "12 requests wait,\\n most is 8"}')
        == "429: N requests wait, most is N"
    )
    assert kind(429, b'{"error": "13 requests wait,\\n most is 8"}') == kind(
        429, b'{"error": "1 requests wait, most is 8"}'
    )
    assert kind(502, b"<html>bad") == "502: <html>bad"
    assert kind(500, b"") == "500"


@given(st.text())
def test_kinds_are_short_single_lines(message):
    kind = error_kind(500, message)
    assert len(kind) < 200
    assert len(kind.splitlines()) == 1
