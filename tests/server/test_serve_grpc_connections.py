"""Slow, silent, greedy and rude clients of gRPC, against a running server with small limits."""

import contextlib

import grpc
import numpy as np
import pytest
from connections import connections_of, few_descriptors, recovering, reset_at_end
from grpc_calls import connected, infer_request
from raw_http2 import (
    CANCEL,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    RST_STREAM,
    RawConnection,
    call_headers,
    data_frames,
    frame,
    message,
)
from serving import configuration, fake, running, wait_for

pytestmark = pytest.mark.process

MIB = 1 << 20
COLUMNS = 784
CALLS = 20
HEADER_BYTES = 16 << 10


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    config = configuration(
        {"a": fake(0, inputs=COLUMNS, outputs=COLUMNS)},
        limits={
            "body_s": 0.6,
            "write_s": 0.6,
            "idle_s": 1.0,
            "calls": CALLS,
            "header_bytes": HEADER_BYTES,
        },
    )
    with running(config, tmp_path_factory.mktemp("calls")) as server:
        yield server
        assert "Traceback" not in server.stderr


@pytest.fixture(autouse=True)
def recovery(server):
    """After every test: a canary is answered, and no descriptor has stayed."""
    with recovering(server, check_canary):
        yield


def rows(count):
    return np.random.default_rng(count).random((count, COLUMNS), np.float32)


def check_canary(server):
    x = rows(1)
    with connected(server.grpc) as channel:
        np.testing.assert_array_equal(channel.infer("a", x).values, x)


def takes_calls(server):
    try:
        check_canary(server)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return False
    return True


def wait_trailers(connection, stream):
    """The rest of a stream that ends with trailers; these, compressed only a little."""
    while True:
        kind, flags, of, payload = connection.read_frame()
        if (kind, of) == (HEADERS, stream) and flags & END_STREAM:
            return payload


# -- slow ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ModelInfer", "ServerLive"])
@pytest.mark.parametrize("sent", [b"", message(bytes(100))[:50]], ids=["nothing", "a half"])
def test_a_message_that_does_not_come_in_time(server, method, sent):
    with RawConnection(server.grpc) as connection:
        connection.send(call_headers(1, method), frame(DATA, 0, 1, sent))
        trailers = wait_trailers(connection, 1)
        assert b"the message did not come within 0.6 s" in trailers
        # The connection lives on.
        connection.send(call_headers(3, "ServerLive"), frame(DATA, END_STREAM, 3, message(b"")))
        assert b"did not come" not in wait_trailers(connection, 3)


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
def test_answers_that_are_not_taken(server, method):
    data = message(infer_request("a", rows(100)).SerializeToString())
    with RawConnection(server.grpc, window=0) as connection:
        connection.send(call_headers(1, method), data_frames(1, data))
        while connection.read_frame() is not None:  # the answer's headers, and then the end
            pass


# -- silent -------------------------------------------------------------------------------------


def test_idle_connections_are_closed(server):
    with RawConnection(server.grpc) as connection:
        kind, _, _, payload = connection.read_frame()
        assert kind == GOAWAY
        assert b"idle" in payload
        assert connection.read_frame() is None


def test_a_client_notices_nothing_of_it(server):
    front_end = server.child("front-end")
    with connected(server.grpc) as channel:
        np.testing.assert_array_equal(channel.infer("a", rows(2)).values, rows(2))
        wait_for(lambda: not connections_of(front_end), "the end of the connection")
        np.testing.assert_array_equal(channel.infer("a", rows(3)).values, rows(3))


# -- greedy -------------------------------------------------------------------------------------


def test_metadata_that_is_too_large(server):
    with connected(server.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.bytes_call("ServerLive", b"", metadata=[("x", "x" * HEADER_BYTES)])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_calls_beyond_the_limit(server):
    with RawConnection(server.grpc) as connection:
        connection.send(*(call_headers(2 * i + 1) for i in range(CALLS + 5)))
        trailers = []
        while len(trailers) < CALLS + 5:
            kind, flags, _, payload = connection.read_frame()
            if kind == HEADERS and flags & END_STREAM:
                trailers.append(payload)
        # Of those that say the same, only the first is sure not to be compressed.
        refusals = [one for one in trailers if b"too many calls are open" in one]
        assert 1 <= len(refusals) <= 5
        assert b"retry-after" in refusals[0]


# -- rude ---------------------------------------------------------------------------------------


def test_streams_that_are_reset_as_fast_as_they_are_opened(server):
    front_end = server.child("front-end")
    before = front_end.memory_info().rss
    with RawConnection(server.grpc) as connection, contextlib.suppress(ConnectionError):
        for i in range(10_000):
            stream = 2 * i + 1
            connection.send(call_headers(stream), frame(RST_STREAM, 0, stream, CANCEL))
        assert server.is_ready()  # over HTTP; over gRPC, too many calls may be open
    wait_for(lambda: takes_calls(server), "that calls are taken")
    assert front_end.memory_info().rss - before < 50 * MIB


def test_connections_that_are_reset_in_the_middle_of_a_message(server):
    data = message(infer_request("a", rows(20)).SerializeToString())
    for _ in range(30):
        with RawConnection(server.grpc) as connection:
            connection.send(call_headers(1), frame(DATA, 0, 1, data[:10_000]))
            reset_at_end(connection.socket)


def test_a_message_with_its_headers_only_counts_as_one(server):
    with RawConnection(server.grpc) as connection:
        connection.send(call_headers(1), frame(DATA, END_STREAM, 1))
        assert b"grpc-status" in wait_trailers(connection, 1)


def test_no_descriptor_is_left(server):
    front_end = server.child("front-end")
    few = front_end.num_fds() + 5
    with few_descriptors(front_end, few), contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(RawConnection(server.grpc))
    # gRPC tries again to accept what waits after a while; afterwards all is as before.
    wait_for(lambda: not connections_of(front_end), "that nobody is connected")
