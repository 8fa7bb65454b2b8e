"""Clients that are slow, greedy, silent or rude, against a running server with small limits."""

import contextlib
import json
import select
import socket

import numpy as np
import psutil
import pytest
from connections import connections_of, few_descriptors, recovering, reset
from serving import configuration, fake, running, wait_for

from benchmarks.errors import BenchmarkError
from benchmarks.idle import holding
from benchmarks.infer_request import EncodedRequest

pytestmark = pytest.mark.process

MIB = 1 << 20
COLUMNS = 784
INFER = "/v2/models/all/infer"
DEADLINE_S = 30
HEADER_BYTES = 16 << 10
#: Who is slow on purpose has not long to wait; who sends much at once must not be slow by chance.
HASTY = {"header_s": 0.3, "body_s": 0.6, "idle_s": 1.0}
PATIENT = {"header_s": 10.0, "body_s": 10.0, "idle_s": 10.0}


@contextlib.contextmanager
def limited(directory, **limits):
    config = configuration(
        {"a": fake(0, inputs=COLUMNS, outputs=COLUMNS)},
        arena_bytes="64MiB",
        limits={"header_bytes": HEADER_BYTES, "write_s": 0.6, **limits},
    )
    with running(config, directory) as server:
        yield server
        assert "Traceback" not in server.stderr


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    with limited(tmp_path_factory.mktemp("hasty"), **HASTY) as server:
        yield server


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    with limited(tmp_path_factory.mktemp("patient"), **PATIENT) as server:
        yield server


@pytest.fixture(autouse=True)
def recovery(request):
    """After every test with such a server: a canary is answered, and no descriptor has stayed."""
    with contextlib.ExitStack() as stack:
        for name in {"hasty", "patient"} & set(request.fixturenames):
            stack.enter_context(recovering(request.getfixturevalue(name), check_canary))
        yield


# -- requests by hand -----------------------------------------------------------------------------


def head(length, *headers):
    framing = f"Content-Length: {length}" if length is not None else "Transfer-Encoding: chunked"
    return "\r\n".join([f"POST {INFER} HTTP/1.1", "Host: t", framing, *headers, "", ""]).encode()


def binary_body(x):
    tensor = {
        "name": "x",
        "shape": x.shape,
        "datatype": "FP32",
        "parameters": {"binary_data_size": x.nbytes},
    }
    document = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    header = json.dumps(document).encode()
    return header + x.tobytes(), f"Inference-Header-Content-Length: {len(header)}"


def binary_request(x):
    body, length = binary_body(x)
    return head(len(body), length) + body


def rows(count, seed=0):
    return np.random.default_rng(seed).random((count, COLUMNS), np.float32)


@contextlib.contextmanager
def connected(server, receive_bytes=None):
    with socket.socket() as connection:
        connection.settimeout(DEADLINE_S)
        if receive_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.connect((server.host, server.port))
        yield connection


def read_all(connection):
    """What comes until the server closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(1 << 16):
            received += chunk
    return received


def check_refused(received, status):
    first, _, body = received.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 %d " % status), received[:200]
    assert b"connection: close" in first
    assert set(json.loads(body)) == {"error"}
    return json.loads(body)["error"]


def check_canary(server):
    x = rows(1, seed=7)
    with connected(server) as connection:
        connection.sendall(binary_request(x))
        answer = b""
        while not answer.endswith(x.tobytes()):
            chunk = connection.recv(1 << 16)
            assert chunk, answer[:200]
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 200 ")


def send_while_taken(connection, pieces):
    """Send without pause until the server closes or has answered; how many bytes went."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            connection.sendall(piece)
            sent += len(piece)
            if select.select([connection], [], [], 0)[0]:
                break
    return sent


def drip(connection, pieces):
    """Send a piece in each tenth of the shortest limit, until there is an answer."""
    for piece in pieces:
        if select.select([connection], [], [], 0.03)[0]:
            return
        connection.sendall(piece)


# -- slow ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [b"P", b"POST / HTTP/1.1\r\nHo", head(5)[:-2]])
def test_headers_that_do_not_end_in_time(hasty, start):
    with connected(hasty) as connection:
        connection.sendall(start)
        assert "headers did not come within 0.3 s" in check_refused(read_all(connection), 408)


def test_headers_that_drip(hasty):
    with connected(hasty) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\n")
        drip(connection, (b"X-%d: 1\r\n" % i for i in range(10**6)))
        check_refused(read_all(connection), 408)


def test_headers_of_the_next_request_that_do_not_end_in_time(hasty):
    with connected(hasty) as connection:
        connection.sendall(binary_request(rows(1)) + b"GET /v2 HT")
        received = read_all(connection)
    assert received.startswith(b"HTTP/1.1 200 ")
    check_refused(received[received.index(b"HTTP/1.1 408") :], 408)


@pytest.mark.parametrize("length", [1000, None])
def test_a_body_that_does_not_come_in_time(hasty, length):
    with connected(hasty) as connection:
        connection.sendall(head(length))
        assert "body did not come within 0.6 s" in check_refused(read_all(connection), 408)


@pytest.mark.parametrize("path", [INFER, "/v2/repository/index"])
def test_a_body_that_drips(hasty, path):
    with connected(hasty) as connection:
        connection.sendall(head(50_000).replace(INFER.encode(), path.encode()))
        drip(connection, (b"x" for _ in range(10**6)))
        check_refused(read_all(connection), 408)


def test_chunks_that_drip(hasty):
    with connected(hasty) as connection:
        connection.sendall(head(None))
        drip(connection, (b"1\r\nx\r\n" for _ in range(10**6)))
        check_refused(read_all(connection), 408)


def test_a_body_that_nobody_waits_for_any_more(hasty):
    with connected(hasty) as connection:
        connection.sendall(head(1000, "Content-Encoding: br") + b"x")
        received = read_all(connection)  # one answer, then the end
    assert received.startswith(b"HTTP/1.1 415 ")
    assert received.count(b"HTTP/1.1") == 1


def test_slow_requests_within_the_limits_are_answered(patient):
    request = binary_request(rows(1))
    parts = [request[i : i + 400] for i in range(0, len(request), 400)]
    with connected(patient) as connection:
        for part in parts:
            connection.sendall(part)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


# -- silent -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n", binary_request(rows(1))])
def test_idle_connections_are_closed(hasty, sent):
    with connected(hasty) as connection:
        connection.sendall(sent)
        received = read_all(connection)
    assert received.count(b"HTTP/1.1 ") == (1 if len(sent) > 4 else 0)


def test_line_ends_for_ever_are_no_request(hasty):
    with connected(hasty) as connection:
        drip(connection, (b"\r\n" for _ in range(10**6)))
        assert read_all(connection) == b""


# -- greedy -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        b"X: " + b"x" * HEADER_BYTES,
        b"X" * HEADER_BYTES + b": x",
        b"\r\n".join(b"X-%d: 1" % i for i in range(HEADER_BYTES // 8)),
    ],
    ids=["value", "name", "many"],
)
@pytest.mark.parametrize("ends", [True, False])
def test_headers_that_are_too_large(patient, headers, ends):
    with connected(patient) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\n" + headers + b"\r\n\r\n" * ends)
        assert str(HEADER_BYTES) in check_refused(read_all(connection), 431)


def test_a_url_that_is_too_large(patient):
    with connected(patient) as connection:
        connection.sendall(b"GET /" + b"x" * HEADER_BYTES + b" HTTP/1.1\r\n\r\n")
        check_refused(read_all(connection), 431)


def test_headers_within_the_limit_before_a_large_body(patient):
    x = rows(40)
    body, length = binary_body(x)
    with connected(patient) as connection:
        connection.sendall(head(len(body), length, "X: " + "x" * (HEADER_BYTES - 1000)) + body)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


ENDLESS = {
    "headers": (b"GET /v2 HTTP/1.1\r\n", b"X: " + b"x" * 1000 + b"\r\n"),
    "one header": (b"GET /v2 HTTP/1.1\r\nX: ", b"x" * 1000),
    "url": (b"GET /", b"x" * 1000),
    "chunk extension": (head(None) + b"1;", b"a=b;" * 250),
    "trailers": (head(None) + b"1\r\nx\r\n0\r\n", b"X: " + b"x" * 1000 + b"\r\n"),
    "one trailer": (head(None) + b"1\r\nx\r\n0\r\nX: ", b"x" * 1000),
    "trailers after an answer": (
        head(None, "Content-Encoding: br") + b"1\r\nx\r\n0\r\n",
        b"X: " + b"x" * 1000 + b"\r\n",
    ),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_what_never_ends_takes_no_memory(patient, what):
    start, more = ENDLESS[what]
    front_end = patient.child("front-end")
    before = front_end.memory_info().rss
    for _ in range(5):
        with connected(patient) as connection:
            connection.sendall(start)
            # What the kernel and one read of ours take in is the most that can go.
            assert send_while_taken(connection, (more for _ in range(100_000))) < 50 * MIB
    assert front_end.memory_info().rss - before < 20 * MIB


def test_thousands_of_tiny_chunks(patient):
    x = rows(8)
    body, length = binary_body(x)
    chunks = b"".join(b"1\r\n" + body[i : i + 1] + b"\r\n" for i in range(len(body)))
    with connected(patient) as connection:
        connection.sendall(head(None, length) + chunks + b"0\r\n\r\n")
        answer = b""
        while not answer.endswith(x.tobytes()):
            answer += connection.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 200 ")


# -- rude ---------------------------------------------------------------------------------------


def test_a_reader_that_never_reads(patient):
    x = rows(20 * MIB // (COLUMNS * 4))
    request = binary_request(x)
    front_end = patient.child("front-end")
    growth = []
    for _ in range(3):
        with connected(patient, receive_bytes=4096) as connection:
            connection.sendall(request)
            wait_for(lambda: not connections_of(front_end), "the end of the connection")
        growth.append(front_end.memory_info().rss)
    # The first may leave its memory with the process; the others use it again.
    assert growth[-1] - growth[0] < x.nbytes


def test_pipelined_requests_whose_answers_nobody_reads(patient):
    front_end = patient.child("front-end")
    request = binary_request(rows(10))
    with connected(patient, receive_bytes=4096) as connection:
        connection.settimeout(0.1)
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(2000):
                connection.sendall(request)
        wait_for(lambda: not connections_of(front_end), "the end of the connection")


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_resets_in_the_middle_of_the_upload(patient, share):
    request = binary_request(rows(300))
    for _ in range(30):
        with connected(patient) as connection:
            connection.sendall(request[: int(len(request) * share)])
            reset(connection)


def test_resets_in_the_middle_of_the_answer(patient):
    request = binary_request(rows(600))
    for _ in range(20):
        with connected(patient, receive_bytes=4096) as connection:
            connection.sendall(request)
            assert connection.recv(100)
            reset(connection)


def test_resets_while_the_answer_is_awaited(patient):
    request = binary_request(rows(2))
    for _ in range(100):
        with connected(patient) as connection:
            connection.sendall(request)
            reset(connection)


# -- at the end ---------------------------------------------------------------------------------


def test_a_server_that_stops_waits_for_no_slow_client(serve):
    server = serve(
        configuration({"a": fake(0, inputs=COLUMNS, outputs=COLUMNS)}, limits={"write_s": 1})
    )
    check_canary(server)
    with contextlib.ExitStack() as stack:
        silent, half_head, half_body = (stack.enter_context(connected(server)) for _ in range(3))
        half_head.sendall(b"GET /v2")
        half_body.sendall(head(1000) + b"x")
        deaf = stack.enter_context(connected(server, receive_bytes=4096))
        deaf.sendall(binary_request(rows(20 * MIB // (COLUMNS * 4))))
        assert deaf.recv(1)  # the rest is never read
        assert server.stop() == 0
        assert read_all(silent) == b""
        for connection in (half_head, half_body):
            assert "draining" in check_refused(read_all(connection), 503)


# -- together -----------------------------------------------------------------------------------

MOST = 30


@pytest.fixture(scope="module")
def small_server(tmp_path_factory):
    config = configuration(
        {"a": fake(0, inputs=COLUMNS, outputs=COLUMNS)},
        max_request_bytes=4 * MIB,
        limits={"connections": MOST, "waiting_bytes": 8 * MIB},
    )
    with running(config, tmp_path_factory.mktemp("small")) as server:
        yield server
        assert "Traceback" not in server.stderr


def test_bodies_together_take_no_more_than_their_share(small_server):
    server, length = small_server, 4 * MIB
    part = bytes(3 * MIB)
    with contextlib.ExitStack() as stack:
        promised = [stack.enter_context(connected(server)) for _ in range(20)]
        for connection in promised:  # who only promises takes nothing from the others
            connection.sendall(head(length))
        for connection in promised[:2]:
            connection.sendall(part)

        def is_full():
            with connected(server) as connection:
                connection.sendall(head(length))
                readable = select.select([connection], [], [], 0.05)[0]
                return readable and connection.recv(4096)

        refusal = wait_for(is_full, "a refusal")
        assert refusal.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: " in refusal
        assert b"hold" in refusal
        connection = promised[2]
        with contextlib.suppress(ConnectionError):
            connection.sendall(part)
        assert connection.recv(4096).startswith(b"HTTP/1.1 429 ")
        check_canary(server)  # small requests are answered all the while
    x = rows(length // 2 // (COLUMNS * 4))

    def is_answered():
        with connected(server) as connection:
            with contextlib.suppress(ConnectionError):  # it may be refused while it is sent
                connection.sendall(binary_request(x))
                return connection.recv(4096).startswith(b"HTTP/1.1 200 ")
            return False

    wait_for(is_answered, "that there is memory again")


def test_what_is_refused_before_it_is_sent_ends_the_connection(small_server):
    with connected(small_server) as connection:
        connection.sendall(head(100, "Content-Encoding: br", "Expect: 100-continue"))
        check_refused(read_all(connection), 415)


# -- many ---------------------------------------------------------------------------------------


def test_connections_that_the_benchmark_holds(small_server):
    body, length = binary_body(rows(1))
    request = EncodedRequest(INFER, body, dict([length.split(": ")]))
    address = f"{small_server.host}:{small_server.port}"
    front_end = small_server.child("front-end")
    wait_for(lambda: not connections_of(front_end), "that nobody is connected")
    with holding(address, request, MOST - 2):
        assert len(connections_of(front_end)) == MOST - 2
        check_canary(small_server)
    with pytest.raises(BenchmarkError, match="503"), holding(address, request, MOST + 2):
        pass
    wait_for(lambda: not connections_of(front_end), "that nobody is connected")


def ask_for_metadata(connection):
    connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: t\r\n\r\n")
    assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_connections_beyond_the_limit(small_server):
    front_end = small_server.child("front-end")
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected(small_server)) for _ in range(MOST)]
        wait_for(lambda: len(connections_of(front_end)) == MOST, "that they are accepted")
        for _ in range(50):
            with connected(small_server) as connection:
                received = read_all(connection)
                assert "too many connections" in check_refused(received, 503)
                assert b"retry-after: 1\r\n" in received
        for connection in held:  # all of these are served
            ask_for_metadata(connection)
    wait_for(lambda: not connections_of(front_end), "that nobody is connected")
    check_canary(small_server)


def test_no_descriptor_is_left(small_server):
    front_end = small_server.child("front-end")
    with (
        recovering(small_server, check_canary),
        few_descriptors(front_end, front_end.num_fds() + 5),
    ):
        with connected(small_server) as first, contextlib.ExitStack() as stack:
            ask_for_metadata(first)
            for _ in range(50):
                connection = stack.enter_context(connected(small_server))
                with contextlib.suppress(ConnectionError):
                    connection.sendall(b"GET /none HTTP/1.1\r\nHost: t\r\n\r\n")
            # Whoever was there before is served all the while.
            ask_for_metadata(first)
        wait_for(lambda: not connections_of(front_end), "that nobody is connected")
        check_canary(small_server)


def test_the_front_end_may_open_as_many_descriptors_as_the_system_allows(small_server):
    soft, hard = small_server.child("front-end").rlimit(psutil.RLIMIT_NOFILE)
    assert soft == hard
