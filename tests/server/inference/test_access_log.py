"""A fault of the server is told under an id, over both protocols: the log has the rest."""

import asyncio
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import ClientGone, DeadlineExceeded, InvalidRequest
from server.grpc_api.status import fail
from server.http_api.infer_route import InferRoute
from server.inference.access_log import AccessLog, new_request_id, valid_request_id
from server.inference.endpoint import Endpoint
from server.versions import ModelName


class Broken:
    """An engine whose every use is a fault."""

    def check_open(self):
        raise ZeroDivisionError("oh")


def ask(*headers):
    """What a route with a broken engine answers: status, headers, document."""
    model = SimpleNamespace(served=SimpleNamespace(name="m"), public=ModelName("m", "1"), inputs=())
    endpoint = Endpoint(model)
    inference = SimpleNamespace(
        engine=Broken(),
        endpoints={"m": endpoint},
        find=lambda name: endpoint,
        deployments=SimpleNamespace(on_routes=lambda renew: None),
        access=AccessLog("none"),
        tracer=None,
    )
    scope = {
        "type": "http",
        "path": "/v2/models/m/infer",
        "headers": [(b"x-request-id", value) for value in headers],
        "client": ("::1", 5),
    }
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        raise AssertionError

    with ThreadPoolExecutor(1) as threads:
        route = InferRoute(
            inference,
            threads,
            max_request_bytes=10,
            max_json_bytes=10,
            budget=None,
            authenticator=None,
        )
        asyncio.run(route(scope, receive, send))
    start, body = sent
    return start["status"], dict(start["headers"]), json.loads(body["body"])


@pytest.mark.parametrize("given", [(), (b"mine",), (b"not one",)])
def test_an_internal_error_names_the_log_record(caplog, given):
    with caplog.at_level(logging.ERROR):
        status, headers, document = ask(*given)
    assert status == 500
    (record,) = caplog.records
    assert record.exc_info[0] is ZeroDivisionError
    assert (record.model, record.protocol) == ("m", "http")
    named = record.request_id
    assert named == "mine" if given == (b"mine",) else len(named) == 16
    assert headers[b"x-request-id"] == named.encode()
    assert document == {"error": f"internal error, see the server's log for request {named}"}


class Call:
    """A call that came with an id."""

    def __init__(self):
        self.trailing = (("x-request-id", "mine"), ("other", "x"))

    def end(self, code, text):
        self.code, self.text = code, text


def test_an_internal_error_of_a_call_names_the_log_record(caplog):
    call = Call()
    with caplog.at_level(logging.ERROR):
        fail(call, ZeroDivisionError("oh"))
    (record,) = caplog.records
    assert record.exc_info[0] is ZeroDivisionError
    assert call.code == grpc.StatusCode.INTERNAL.value[0]
    assert call.text == f"internal error, see the server's log for request {record.request_id}"
    assert call.trailing == (("x-request-id", record.request_id), ("other", "x"))


@pytest.mark.parametrize(
    ("kind", "told"),
    [("none", []), ("errors", ["failed"]), ("all", ["refused", "failed", "refused"])],
)
def test_which_requests_are_logged(caplog, kind, told):
    log = AccessLog(kind)
    errors = [InvalidRequest("x"), DeadlineExceeded("x"), ClientGone()]
    with caplog.at_level(logging.INFO):
        for error in errors:
            assert log.failed(0.0, error, lambda: {"request_id": "r"}) is error
    assert [record.getMessage().split(":")[0] for record in caplog.records] == told
    assert {record.request_id for record in caplog.records} <= {"r"}


@given(st.text(max_size=200))
def test_valid_request_ids(text):
    assert valid_request_id(text) in {"", text}
    if valid_request_id(text):
        assert len(text) <= 128
        assert text.isascii()
        assert text.isprintable()
        assert " " not in text


def test_the_first_valid_request_id_is_used():
    assert valid_request_id("a", "b") == "a"
    assert valid_request_id("", "b") == "b"
    assert valid_request_id("a b", "x" * 129, "x" * 128) == "x" * 128
    assert valid_request_id("a\n", "") == ""
    assert valid_request_id(new_request_id()) != valid_request_id(new_request_id()) != ""
