"""The gRPC server's end and its new beginnings: what is answered, and who has the port."""

import threading

import numpy as np
import pytest
from grpc_calls import InferAnswer, connected, infer_request, is_full, refused, status
from serving import configuration, fake, wait_for

pytestmark = pytest.mark.process

TINY = {"arena_bytes": (64 << 10) + 2000, "max_waiting_requests": 1}
X = np.array([[5, 6], [7, 8]], np.float32)


def test_sigterm_answers_what_was_accepted_and_refuses_the_rest(serve, connect):
    server = serve(configuration({"slow": fake(1, sleep_ms=30, batch_size=1)}, **TINY))
    channel = connect(server)
    go = threading.Event()

    def requests():
        yield infer_request("slow", X)
        go.wait(60)

    try:
        stream = channel.stream(requests())
        np.testing.assert_array_equal(InferAnswer(next(stream).infer_response).values, X + 1)
        rows = 2 * channel.call("ModelConfig", name="slow").config.max_batch_size
        x = np.arange(2 * rows).reshape(rows, 2)
        accepted = channel.method("ModelInfer").future(infer_request("slow", x), timeout=60)
        wait_for(lambda: is_full(channel), "a full house")
        server.process.terminate()
        wait_for(lambda: not channel.is_ready(), "draining")
        assert channel.call("ServerLive").live
        assert status(refused(channel.infer, "slow", X)) == "UNAVAILABLE"
        np.testing.assert_array_equal(InferAnswer(accepted.result()).values, x + 1)
        error = refused(next, stream)
        assert (status(error), error.details()) == ("UNAVAILABLE", "the server is draining")
        assert server.wait_end() == 0
    finally:
        go.set()


def test_a_new_front_end_takes_the_port_over(serve, connect):
    server = serve(configuration({"a": fake(1)}))
    channel = connect(server)
    for _ in range(2):
        np.testing.assert_array_equal(channel.infer("a", X).values, X + 1)
        server.kill("front-end")
        assert status(refused(channel.infer, "a", X)) == "UNAVAILABLE"
        wait_for(channel.is_ready, "a new front-end")
    np.testing.assert_array_equal(channel.infer("a", X).values, X + 1)


@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_hosts_by_other_names(serve, connect, host):
    config = configuration({"a": fake(1)})
    server = serve(config, arguments=("--host", host))
    if host == "::1":
        assert server.grpc.startswith("[::1]:")
    np.testing.assert_array_equal(connect(server).infer("a", X).values, X + 1)
    np.testing.assert_array_equal(server.predict("a", X).values, X + 1)


def fails_to_start(serve, config, *arguments):
    """The last line of a server that can't start."""
    server = serve(config, arguments=arguments, ready=False)
    server.exits_with = (1,)
    assert server.wait_end(60) == 1
    return server.stderr.splitlines()[-1]


def test_a_port_that_is_taken_is_refused_at_once(serve):
    config = configuration({"a": fake(1)})
    first = serve(config)
    _, _, port = first.grpc.rpartition(":")
    for taken in (port, str(first.port)):
        line = fails_to_start(serve, config, "--grpc-port", taken)
        assert line.startswith("error: ")
        assert f"127.0.0.1:{taken}" in line
        assert "in use" in line
    # Nor while there is no front-end to listen on it.
    first.child("front-end").suspend()
    assert "in use" in fails_to_start(serve, config, "--grpc-port", port)
    first.child("front-end").resume()
    with connected(first.grpc) as channel:
        wait_for(channel.is_ready, "the front-end, or another, if it was suspended for too long")
        np.testing.assert_array_equal(channel.infer("a", X).values, X + 1)
    first.stop()
    again = serve(config, arguments=("--grpc-port", port))
    assert again.grpc == first.grpc
    with connected(again.grpc) as channel:
        np.testing.assert_array_equal(channel.infer("a", X).values, X + 1)
