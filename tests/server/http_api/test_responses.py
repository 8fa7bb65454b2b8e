"""What goes back to clients that are refused while they are still sending."""

import asyncio

import pytest

from server.errors import InvalidRequest, RequestTooLarge, Unauthenticated
from server.http_api.responses import send_error


def refused(error, headers=()):
    """What is sent, and read meanwhile, when a request is refused; in order."""
    parts = [{"type": "http.request", "body": b"x", "more_body": more} for more in (True, False)]
    events = []

    async def receive():
        events.append("read")
        return parts.pop(0)

    async def send(message):
        if message["type"] == "http.response.start":
            events.append(f"close {(b'connection', b'close') in message['headers']}")
        else:
            events.append("more" if message.get("more_body") else "end")

    asyncio.run(send_error(error, {"headers": list(headers)}, receive, send))
    return events


@pytest.mark.parametrize("error", [RequestTooLarge("x"), Unauthenticated("x")])
def test_who_still_sends_a_body_that_nobody_reads_gets_to_read_the_answer(error):
    assert refused(error) == ["close True", "more", "read", "read", "end"]


def test_who_asked_before_sending_sends_nothing():
    asks = [(b"expect", b"100-continue")]
    assert refused(RequestTooLarge("x"), asks) == ["close True", "end"]
    assert refused(InvalidRequest("x"), asks) == ["close True", "end"]


def test_a_connection_of_which_all_was_read_stays():
    assert refused(InvalidRequest("x")) == ["close False", "end"]
