"""Clients that ask for large answers and read nothing, with and without TLS."""

import contextlib
import json
import socket

import numpy as np
import pytest
from certificates import Authority
from connections import connections_of
from grpc_calls import connected, infer_request
from raw_http2 import RawConnection, call_headers, data_frames, message
from serving import configuration, fake, wait_for

pytestmark = pytest.mark.process

MIB = 1 << 20
COLUMNS = 10_000
ROW_BYTES = COLUMNS * 4
DEADLINE_S = 30


class Place:
    """A server of large answers, reached with TLS or without."""

    def __init__(self, serve, directory, *, encrypted, **limits):
        self._context, tls = None, {}
        if encrypted:
            authority = Authority(directory)
            certificate, key = authority.sign("server")
            self._context = authority.context()
            tls = {"tls": {"certificate": str(certificate), "key": str(key)}}
        member = fake(0, inputs=1, outputs=COLUMNS)
        config = configuration({"a": member}, arena_bytes="16MiB", limits=limits, **tls)
        self.server = serve(config)
        self.front_end = self.server.child("front-end")

    @contextlib.contextmanager
    def connected(self):
        connection = socket.socket()
        with contextlib.closing(connection):
            connection.settimeout(DEADLINE_S)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((self.server.host, self.server.port))
            if self._context is None:
                yield connection
            else:
                with self._context.wrap_socket(
                    connection, server_hostname="127.0.0.1", suppress_ragged_eofs=True
                ) as wrapped:
                    yield wrapped

    @property
    def connections(self):
        return len(connections_of(self.front_end))


def request(rows):
    x = np.arange(rows, dtype=np.float32)
    size = {"binary_data_size": x.nbytes}
    tensor = {"name": "x", "shape": (rows, 1), "datatype": "FP32", "parameters": size}
    document = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    header = json.dumps(document).encode()
    lines = [
        "POST /v2/models/all/infer HTTP/1.1",
        "Host: t",
        f"Content-Length: {len(header) + x.nbytes}",
        f"Inference-Header-Content-Length: {len(header)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + header + x.tobytes()


def read_answer(connection, received, rows):
    """Read the rest of an answer, and look whether it is the right one."""
    while b"\r\n\r\n" not in received:
        received += connection.recv(1 << 16)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    fields = dict(line.split(b": ") for line in head.split(b"\r\n")[1:])
    while len(body) < int(fields[b"content-length"]):
        body += connection.recv(1 << 20)
    values = np.frombuffer(body[-rows * ROW_BYTES :], np.float32).reshape(rows, COLUMNS)
    np.testing.assert_array_equal(values, np.arange(rows)[:, np.newaxis].repeat(COLUMNS, axis=1))


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
def test_answers_that_nobody_reads_take_no_more_than_their_share(serve, tmp_path, encrypted):
    place = Place(serve, tmp_path, encrypted=encrypted, unread_bytes=16 * MIB, write_s=300)
    with contextlib.ExitStack() as stack:
        modest = stack.enter_context(place.connected())
        modest.sendall(request(100))  # 4 MB, of which the kernel takes a part
        first = modest.recv(1)
        for _ in range(10):
            greedy = stack.enter_context(place.connected())
            greedy.sendall(request(250) * 3)  # 10 MB each, and more to come
            greedy.recv(1)
        wait_for(lambda: place.connections <= 3, "that those with much are ended")
        assert place.connections >= 2
        read_answer(modest, first, 100)
        other = stack.enter_context(place.connected())
        other.sendall(request(1))
        read_answer(other, b"", 1)


def has_ended(connection):
    """Whether the server has closed it; what has come of it is forgotten."""
    connection.setblocking(False)
    try:
        while connection.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize(
    ("method", "connections", "messages"),
    [("ModelInfer", 6, 1), ("ModelStreamInfer", 1, 5)],
    ids=["calls", "a stream"],
)
def test_over_grpc_they_share_the_same_bound(serve, tmp_path, method, connections, messages):
    place = Place(serve, tmp_path, encrypted=False, unread_bytes=16 * MIB, write_s=300)
    data = message(infer_request("all", np.zeros((250, 1))).SerializeToString())  # 10 MB back
    with contextlib.ExitStack() as stack:
        sockets = []
        for _ in range(connections):
            greedy = stack.enter_context(RawConnection(place.server.grpc, window=0))
            greedy.send(call_headers(1, method), data_frames(1, data * messages))
            sockets.append(greedy.socket)
        most = 1 if messages == 1 else 0  # a lone answer is let be
        wait_for(
            lambda: sum(map(has_ended, sockets)) >= connections - most,
            "that those with much are ended",
        )
        with connected(place.server.grpc) as channel:
            assert channel.infer("all", [[3]]).values[0, 0] == 3
            assert sum(map(has_ended, sockets)) == connections - most


def test_over_tls_an_answer_is_to_be_read_in_time_too(serve, tmp_path):
    place = Place(serve, tmp_path, encrypted=True, write_s=0.6)
    with place.connected() as connection:
        connection.sendall(request(250))
        assert connection.recv(1)
        wait_for(lambda: not place.connections, "the end of the connection")
    with place.connected() as connection:
        connection.sendall(request(1))
        read_answer(connection, b"", 1)
