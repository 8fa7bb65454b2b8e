"""HTTP/2 that no gRPC client writes: nobody else notices."""

import socket

import numpy as np
import pytest
from grpc_calls import connected
from serving import configuration, fake

from tests.fuzz.frames import call_frames

pytestmark = pytest.mark.process

DEADLINE_S = 30


def test_a_method_whose_name_is_not_text_is_one_that_nobody_knows(serve):
    server = serve(configuration({"a": fake(1)}))
    front_end = server.child("front-end")
    host, _, port = server.grpc.rpartition(":")
    with connected(server.grpc) as channel:
        for number in range(40):
            with socket.create_connection((host, int(port)), DEADLINE_S) as connection:
                connection.sendall(call_frames(b"Model\xffInfer", b""))
                received = b""
                while b"there is no such method" not in received:
                    chunk = connection.recv(1 << 16)
                    assert chunk, "the connection was closed"
                    received += chunk
            values = channel.infer("a", [[number, 0]]).values
            np.testing.assert_array_equal(values, [[number + 1, 1]])
    assert server.child("front-end").pid == front_end.pid
