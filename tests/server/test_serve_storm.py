"""A storm of clients most of which give up, and the calm after it."""

import contextlib
import json
import random
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from connections import reset_at_end
from grpc_calls import connected, infer_request
from serving import ask, configuration, fake, wait_for

pytestmark = pytest.mark.process

DEADLINE_S = 60
CLIENTS = 300
#: One in so many is patient.
PATIENT = 5
WAVE = 100


def payload(number):
    return np.array([[number, -number], [number + 0.5, 7]], np.float32)


def message(x):
    tensor = {"name": "x", "shape": x.shape, "datatype": "FP32", "data": x.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/all/infer HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def give_up_over_http(server, rng, x):
    """Go in the middle of the upload, while the answer is awaited, or in the middle of it."""
    data = message(x)
    sent = rng.choice((len(data), len(data), rng.randrange(len(data))))
    connection = socket.create_connection((server.host, server.port), DEADLINE_S)
    with connection, contextlib.suppress(ConnectionError):
        connection.sendall(data[:sent])
        if sent == len(data) and rng.random() < 0.3:
            connection.recv(20)
        if rng.random() < 0.8:
            reset_at_end(connection)


def test_a_storm_of_clients_that_give_up_harms_none_that_stays(serve):
    """Patient clients share their batches with those that go, and each gets its own answer."""
    server = serve(
        configuration({"a": fake(0, sleep_ms=2), "b": fake(6, sleep_ms=2)}, ensemble={"quorum": 2})
    )
    np.testing.assert_array_equal(ask(server, "all", payload(0)).values, payload(0) + 3)
    before = {child.pid: child.num_fds() for child in server.children()}
    with connected(server.grpc) as channel, ThreadPoolExecutor(24) as pool:
        method = channel.method("ModelInfer")

        def come(number):
            rng, x = random.Random(number), payload(number)
            if number % PATIENT == 0:
                answer = ask(server, "all", x)
                assert answer.members == ["a", "b"]
                np.testing.assert_array_equal(answer.values, x + 3)
            elif rng.random() < 0.3:
                method.future(infer_request("all", x), timeout=DEADLINE_S).cancel()
            else:
                give_up_over_http(server, rng, x)

        for _ in pool.map(come, range(CLIENTS)):  # raises what any of them has raised
            pass

        def wave(number):
            x = payload(10_000 + number)
            over_grpc = number % 2 == 0
            values = (channel.infer("all", x) if over_grpc else ask(server, "all", x)).values
            np.testing.assert_array_equal(values, x + 3)

        assert sum(1 for _ in pool.map(wave, range(WAVE))) == WAVE
    assert server.is_ready()

    def is_back():
        now = {child.pid: child.num_fds() for child in server.children()}
        return now.keys() == before.keys() and all(now[pid] <= before[pid] + 2 for pid in now)

    wait_for(is_back, "the processes are the same, and hold what they held")
    assert "Traceback" not in server.stderr
