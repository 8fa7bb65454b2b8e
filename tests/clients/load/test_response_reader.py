"""HTTP responses out of bytes, in whatever pieces they come."""

import contextlib

import pytest
from ensembled_client.load.http_connection import BadResponseError, Response, ResponseReader
from hypothesis import given
from hypothesis import strategies as st

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Content-Length: 9\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 503 Unavailable\r\nTransfer-Encoding: chunked\r\nconnection: close\r\n\r\n"
    b"3;x=1\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
)
TRAILED = CHUNKED[:-2] + b"Trailer: 1\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


def fed(data, cuts, reader=None):
    """What a reader gives for pieces of the data: nothing before the last."""
    reader = reader or ResponseReader()
    edges = [0, *sorted({min(cut, len(data)) for cut in cuts} - {0, len(data)}), len(data)]
    for start, end in zip(edges, edges[1:-1], strict=False):
        assert reader.feed(data[start:end]) is None
    response = reader.feed(data[edges[-2] :])
    with pytest.raises(BadResponseError, match="without a response"):
        reader.end()  # nothing is left over
    return response


CUTS = st.lists(st.integers(0, 200), max_size=12)


@pytest.mark.parametrize(
    ("data", "status", "body", "keeps_alive"),
    [
        (PLAIN, 200, b"hello", True),
        (CHUNKED, 503, b"hello", False),
        (TRAILED, 503, b"hello", False),
        (INTERIM, 200, b"hello", True),
        (EMPTY, 204, b"", True),
        (PLAIN.replace(b"1.1", b"1.0"), 200, b"hello", False),
    ],
)
@given(cuts=CUTS)
def test_pieces_make_a_response(data, status, body, keeps_alive, cuts):
    response = fed(data, cuts)
    assert (response.status, response.body) == (status, body)
    assert response.keeps_alive == keeps_alive


@given(st.binary(max_size=500), CUTS, st.booleans())
def test_any_body_comes_through(body, cuts, chunked):
    if chunked:
        framing = b"Transfer-Encoding: chunked"
        half = len(body) // 2
        parts = [part for part in (body[:half], body[half:]) if part]
        coded = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    else:
        framing, coded = b"content-length: %d" % len(body), body
    data = b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + coded
    assert fed(data, cuts).body == body


def test_a_body_may_end_with_the_connection():
    reader = ResponseReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\nhel") is None
    assert reader.feed(b"lo") is None
    response = reader.end()
    assert (response.body, response.keeps_alive) == (b"hello", False)


@pytest.mark.parametrize("data", [b"", PLAIN[:30], PLAIN[:-1], CHUNKED[:-1]])
def test_a_connection_that_ends_early_is_an_error(data):
    reader = ResponseReader()
    assert data == b"" or reader.feed(data) is None
    with pytest.raises(BadResponseError, match="closed the connection"):
        reader.end()


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        PLAIN + b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: x\r\nContent-Length: 0\r\n\r\n",
        b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
    ],
)
def test_nonsense_is_an_error(data):
    with pytest.raises(BadResponseError):
        ResponseReader().feed(data)


@given(st.binary(max_size=300))
def test_any_bytes_end_in_a_response_an_error_or_patience(data):
    reader = ResponseReader()
    with contextlib.suppress(BadResponseError):
        reader.feed(b"HTTP/1.1 200 OK\r\n" + data)


def test_headers_are_found_by_their_whole_name_in_any_case():
    response = ResponseReader().feed(
        b"HTTP/1.1 200 OK\r\nX-Content-Length: 1\r\nCONTENT-length:  2 \r\n"
        b"Inference-Header-Content-Length:1\r\n\r\nab"
    )
    assert response == Response(200, b"ab", json_length=1, keeps_alive=True)


@given(CUTS, CUTS)
def test_a_head_that_was_seen_before_changes_nothing(first, second):
    reader = ResponseReader()
    assert reader.feed(PLAIN).body == b"hello"
    assert reader.feed(PLAIN.replace(b"hello", b"world")) == Response(200, b"world")
    for cuts in (first, second):
        assert fed(PLAIN.replace(b"hello", b"again"), cuts, reader).body == b"again"
    with pytest.raises(BadResponseError, match="more than one response"):
        reader.feed(PLAIN + PLAIN)
