"""What is sent again, and what is not: with a clock and chance of our own, and over sockets."""

import contextlib
import socket
import threading

import numpy as np
import pytest
from ensembled_client import (
    DeadlineExceeded,
    EnsembledClientError,
    Overloaded,
    RetryPolicy,
    ServerFailure,
    Unavailable,
)
from ensembled_client.changes import unload_call
from ensembled_client.errors import error_for_status
from ensembled_client.io_backend import BlockingBackend, run_blocking
from ensembled_client.requests import CallOptions
from ensembled_client.session import Session
from ensembled_client.transport import Resource, Transport
from ensembled_client.wire import InferResponse
from stub_servers import Failed, GrpcServer, HttpServer

METADATA = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}]}


class Time(BlockingBackend):
    """Passes only when somebody sleeps, or a transport is slow; random numbers are the largest."""

    def __init__(self):
        self.at = 1000.0
        self.pauses = []

    def now(self):
        return self.at

    def uniform(self, low, high):
        assert low == 0
        return high

    async def sleep(self, seconds):
        self.pauses.append(seconds)
        self.at += seconds


class Scripted(Transport):
    """Answers with the next of `answers`; an error is raised."""

    def __init__(self, time, answers=()):
        self.time = time
        self.answers = list(answers)
        self.sent = []
        self.takes_s = 0.0

    async def infer(self, call, limit_s):
        self.sent.append((dict(call.parameters), limit_s))
        self.time.at += self.takes_s
        if self.answers and (answer := self.answers.pop(0)) is not None:
            raise answer
        return InferResponse({"output": np.zeros((1, 1), np.float32)})

    async def change(self, call, limit_s):
        self.sent.append((dict(call.parameters), limit_s))
        if self.answers and (answer := self.answers.pop(0)) is not None:
            raise answer
        return {}

    async def look_up(self, resource, model, limit_s, version=""):
        if self.answers and isinstance(self.answers[0], tuple):
            raise self.answers.pop(0)[0]
        return METADATA if resource is Resource.MODEL_METADATA else {}

    def overhead_bytes(self, call):
        return 0

    async def close(self):
        pass


def ask(answers, *, policy=None, **options):
    """Return (transport, time, the error that was raised)."""
    time = Time()
    transport = Scripted(time, answers)
    session = Session(transport, time, policy or RetryPolicy())
    error = None
    try:
        run_blocking(session.predict("m", [[1.0]], CallOptions(**options)))
    except EnsembledClientError as raised:
        error = raised
    return transport, time, error


def change(answers):
    """Return (transport, the error that was raised) of a change."""
    time = Time()
    transport = Scripted(time, answers)
    call = unload_call("m", dependents=False)
    try:
        run_blocking(Session(transport, time, RetryPolicy()).change(call))
    except EnsembledClientError as raised:
        return transport, raised
    return transport, None


def busy(retry_after=None):
    return error_for_status(429, "busy", retry_after)


def away():
    return error_for_status(503, "away")


def refused():
    return Unavailable("refused", safe_to_retry=True)


def broken():
    return Unavailable("the connection broke")


def test_pauses_double_up_to_a_limit():
    policy = RetryPolicy(retries=6, first_pause_s=0.5, max_pause_s=3)
    transport, time, error = ask([away(), busy(), refused()] * 2, policy=policy)
    assert error is None
    assert time.pauses == [0.5, 1, 2, 3, 3, 3]
    assert len(transport.sent) == 7


def test_the_last_error_is_raised_in_the_end():
    transport, time, error = ask([refused()] * 9)
    assert isinstance(error, Unavailable)
    assert error.__notes__ == ["tried 4 times"]
    assert (len(transport.sent), len(time.pauses)) == (4, 3)


def test_a_change_is_sent_again_unless_the_server_may_be_at_it():
    transport, error = change([busy(), refused()])
    assert (len(transport.sent), error) == (3, None)
    transport, error = change([broken()])
    assert len(transport.sent) == 1
    assert isinstance(error, Unavailable)


@pytest.mark.parametrize("policy", [RetryPolicy(0), RetryPolicy(retries=0, first_pause_s=9)])
def test_it_can_be_turned_off(policy):
    transport, time, error = ask([away()], policy=policy)
    assert isinstance(error, Unavailable)
    assert not hasattr(error, "__notes__")
    assert (len(transport.sent), time.pauses) == (1, [])


@pytest.mark.parametrize(
    "error",
    [
        broken(),
        DeadlineExceeded("late"),
        ServerFailure("failed", 500),
        *(error_for_status(status, "no") for status in (400, 404, 413, 500, 504)),
    ],
)
def test_what_may_have_been_accepted_is_never_sent_again(error):
    transport, time, raised = ask([error])
    assert raised is error
    assert (len(transport.sent), time.pauses) == (1, [])


def test_the_server_says_how_long_to_wait():
    _, time, error = ask([busy(5.0), busy(1.5)])
    assert error is None
    assert time.pauses == [5.0 + 0.1, 1.5 + 0.2]


def test_nobody_waits_longer_than_that():
    _, time, error = ask([busy(31.0)])
    assert isinstance(error, Overloaded)
    assert (error.retry_after, time.pauses) == (31.0, [])


def test_no_pause_goes_beyond_the_timeout():
    transport, time, error = ask([busy(5.0)], timeout=5.0)
    assert isinstance(error, Overloaded)
    assert (len(transport.sent), time.pauses) == (1, [])


def test_each_try_gets_the_time_that_is_left():
    transport, time, error = ask([busy(1.0), away()], timeout=3.0)
    assert error is None
    assert [parameters["timeout"] for parameters, _ in transport.sent] == [
        3_000_000,
        1_900_000,
        1_700_000,
    ]
    assert [limit_s for _, limit_s in transport.sent] == pytest.approx([4, 2.9, 2.7])


def test_time_that_is_up_before_anything_is_sent():
    time = Time()
    transport = Scripted(time)
    transport.takes_s = 1.0
    session = Session(transport, time, RetryPolicy())
    with pytest.raises(DeadlineExceeded, match="2 s passed"):
        run_blocking(session.predict("m", [[1.0]] * 5, CallOptions(timeout=2.0, max_rows=1)))
    assert [parameters["timeout"] for parameters, _ in transport.sent] == [2_000_000, 1_000_000]


def test_look_ups_are_retried_whatever_broke():
    for error in (broken(), refused()):
        transport, time, raised = ask([(error,)] * 2)
        assert raised is None
        assert (len(transport.sent), len(time.pauses)) == (1, 2)
        _, time, raised = ask([(error_for_status(404, "no"),)])
        assert (raised.status, time.pauses) == (404, [])


@pytest.mark.parametrize("name", ["retries", "first_pause_s", "max_pause_s", "max_retry_after_s"])
def test_policies_that_make_no_sense(name):
    with pytest.raises(ValueError, match="negative"):
        RetryPolicy(**{name: -1})


# -- over sockets ------------------------------------------------------------------------------


def test_requests_are_sent_again_over_both_protocols(model, client):
    model.failures = [Failed(503, retry_after=0), Failed(429, retry_after=0)]
    timing = client.predict("duo", [[1, 2]], timeout=60).timing
    assert (timing.tries, len(model.requests)) == (3, 3)
    model.failures = [Failed(500), None]
    with pytest.raises(ServerFailure):
        client.predict("duo", [[1, 2]])
    assert len(model.requests) == 4


def test_unavailable_over_grpc_may_be_a_broken_connection(model, make, grpc_url):
    model.failures = [Failed(503)]
    with pytest.raises(Unavailable, match="words") as caught:
        make(grpc_url).predict("duo", [[1, 2]])
    assert not caught.value.safe_to_retry
    assert len(model.requests) == 1


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_nobody_is_there(make, scheme):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
    client = make(url)
    assert not client.is_ready()
    assert not client.is_live()
    with pytest.raises(Unavailable, match="can't be reached") as caught:
        client.predict("duo", [[1, 2]])
    assert caught.value.safe_to_retry
    assert caught.value.__notes__ == ["tried 4 times"]
    with pytest.raises(Unavailable, match="not ready"):
        client.wait_until_ready(0)


@pytest.mark.parametrize("server", [HttpServer, GrpcServer])
def test_a_server_that_comes_later(model, make, server):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = make(f"{'http' if server is HttpServer else 'grpc'}://127.0.0.1:{port}")
    assert not client.is_ready()
    with server(model, port):
        client.wait_until_ready(30)
        assert client.predict("duo", [[1, 2]]).values.tolist() == [[2, 3]]


def test_a_server_that_was_restarted_meanwhile(model, make):
    with HttpServer(model) as server:
        client = make(server.url)
        client.predict("duo", [[1, 2]])
    with HttpServer(model, server.server_port):
        assert client.predict("duo", [[1, 2]]).timing.tries == 1
    assert len(model.requests) == 2


@contextlib.contextmanager
def listening(answer):
    """Give each connection to `answer`, in one thread."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"])
def test_a_connection_that_breaks_while_the_answer_is_awaited(make, begin):
    infers = []

    def answer(connection):
        while (head := connection.recv(1 << 16)).startswith(b"GET"):
            body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]}'
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        if head:
            infers.append(head)
            connection.sendall(begin)

    with listening(answer) as url:
        client = make(url)
        with pytest.raises(Unavailable, match="is not known") as caught:
            client.predict("duo", [[1, 2]])
        assert not caught.value.safe_to_retry
        client.__exit__(None, None, None)
    assert len(infers) == 1


def test_a_server_that_does_not_answer_in_time(make):
    release = threading.Event()
    with listening(lambda _: release.wait(30)) as url:
        client = make(url)
        with pytest.raises(DeadlineExceeded, match="did not answer in time"):
            client.predict("duo", [[1, 2]], timeout=0.05)
        release.set()
