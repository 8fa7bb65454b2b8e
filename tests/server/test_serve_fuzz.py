"""Damaged requests on raw connections: always an answer or an end, and the next answer is right."""

import contextlib
import json
import re
import socket

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import configuration, fake, running, wait_for

pytestmark = pytest.mark.process

DEADLINE_S = 20
PATH = "/v2/models/all/infer"
NAMED = {200, 400, 404, 405, 411, 413, 415, 429, 501, 503, 504}
fuzzed = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    config = configuration({"a": fake(0), "b": fake(6)}, max_request_bytes=100_000)
    with running(config, tmp_path_factory.mktemp("fuzz")) as server:
        yield server
        assert "Traceback" not in server.stderr


@pytest.fixture
def ask(server):
    """Sends bytes, ends the sending side, and gives the statuses of the answers."""

    def exchange(data):
        with socket.create_connection((server.host, server.port), DEADLINE_S) as connection:
            received = b""
            try:
                connection.sendall(data)
                with contextlib.suppress(OSError):  # the server may have ended the connection
                    connection.shutdown(socket.SHUT_WR)
                while chunk := connection.recv(1 << 16):
                    received += chunk
            except (ConnectionError, BrokenPipeError):
                pass
        statuses = [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3})", received)]
        assert set(statuses) - {100} <= NAMED, received
        return statuses

    yield exchange
    canary(server)


def canary(server):
    x = np.array([[1.5, -2.0], [0.0, 8.0]], np.float32)
    for binary in (True, False):
        np.testing.assert_array_equal(server.predict("all", x, binary=binary).values, x + 3)


def binary_body(*, size=16, shape=(2, 2), datatype="FP32", name="x", raw=16):
    tensor = {
        "name": name,
        "shape": list(shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": size},
    }
    header = json.dumps({"inputs": [tensor]}).encode()
    return header, np.ones(raw, np.uint8).tobytes()


def message(body, *headers, length=None):
    lines = [f"POST {PATH} HTTP/1.1", "Host: t", "Connection: close", *headers]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


lengths = st.integers(-2, 300) | st.sampled_from([2**31, 2**63, 2**64, 10**30])


@fuzzed
@given(
    size=st.integers(-2, 40) | st.sampled_from([2**31, 2**63, "16", None, 16.0, True, []]),
    shape=st.lists(st.integers(-2, 5) | st.just(2**62), max_size=4),
    datatype=st.sampled_from(["FP32", "FP64", "BOOL", "BF16", "BYTES", "INT8", "", "FP33"]),
    raw=st.integers(0, 40),
    off=st.integers(-3, 3) | lengths,
)
def test_sizes_that_do_not_fit(ask, *, size, shape, datatype, raw, off):
    header, data = binary_body(size=size, shape=shape, datatype=datatype, raw=raw)
    told = f"Inference-Header-Content-Length: {len(header) + off}"
    (status,) = ask(message(header + data, told))
    assert status in {200, 400}


@fuzzed
@given(
    damages=st.lists(
        st.tuples(st.integers(0, 400), st.integers(0, 8), st.binary(max_size=8)),
        min_size=1,
        max_size=3,
    )
)
def test_damaged_messages(ask, damages):
    header, data = binary_body()
    told = f"Inference-Header-Content-Length: {len(header)}"
    damaged = message(header + data, told)
    for position, length, inserted in damages:
        damaged = damaged[:position] + inserted + damaged[position + length :]
    ask(damaged)


@fuzzed
@given(st.integers(0, 400))
def test_messages_that_end_too_early(ask, length):
    header, data = binary_body()
    whole = message(header + data, f"Inference-Header-Content-Length: {len(header)}")
    assert ask(whole[:length]) in ([200], [400], [])


@fuzzed
@given(st.binary(max_size=300), lengths)
def test_random_bodies(ask, body, header_length):
    (status,) = ask(message(body, f"Inference-Header-Content-Length: {header_length}"))
    assert status == 400
    assert ask(message(body)) == [400]


@fuzzed
@given(st.binary(max_size=300))
def test_random_bytes(ask, data):
    ask(data)


@fuzzed
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "Content-Length",
                    "Transfer-Encoding",
                    "Content-Encoding",
                    "Accept-Encoding",
                    "Content-Type",
                    "Expect",
                    "Connection",
                    "Inference-Header-Content-Length",
                ]
            ),
            st.sampled_from(
                ["", "0", "10", "-1", "chunked", "gzip", "deflate", "100-continue", "image/png"]
            )
            | st.text("abc,;=* 019q.", max_size=12),
        ),
        max_size=4,
    ),
    st.booleans(),
)
def test_odd_headers(ask, headers, is_chunked):
    header, data = binary_body()
    lines = [f"{name}: {value}" for name, value in headers]
    body = header + data
    if is_chunked:
        lines.append("Transfer-Encoding: chunked")
        body = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
        head = "\r\n".join([f"POST {PATH} HTTP/1.1", "Host: t", *lines, "", ""]).encode()
        ask(head + body)
    else:
        ask(message(body, *lines))


def test_nothing_of_all_this_left_a_trace(server):
    """Runs last in this file."""
    wait_for(server.is_ready, "readiness")
    canary(server)
    assert "Traceback" not in server.stderr
