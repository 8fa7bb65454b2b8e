"""HTTP/2 that no gRPC client writes: nobody else notices."""

import contextlib
import socket

import grpc
import numpy as np
import pytest
from grpc_calls import connected
from serving import configuration, fake, wait_for

from tests.fuzz.frames import call_frames

pytestmark = pytest.mark.process

DEADLINE_S = 30
#: More than there are servers behind the port, each of which such a request would end.
TIMES = 40


def test_methods_whose_names_are_not_text_end_no_service(serve):
    server = serve(configuration({"a": fake(1)}))
    front_end = server.child("front-end")
    host, _, port = server.grpc.rpartition(":")
    for _ in range(TIMES):
        # The one behind the port may be just ending: then the connection is reset.
        with contextlib.suppress(ConnectionError):
            end_a_server((host, int(port)))

    def answers():
        """Whether twenty calls in a row are answered, each on a connection of its own."""
        try:
            for number in range(20):
                with connected(server.grpc) as channel:
                    values = channel.infer("a", [[number, 0]]).values
                np.testing.assert_array_equal(values, [[number + 1, 1]])
        except grpc.RpcError:
            return False
        return True

    wait_for(answers, "calls are answered")
    assert server.child("front-end").pid == front_end.pid


def end_a_server(address):
    with socket.create_connection(address, DEADLINE_S) as connection:
        connection.sendall(call_frames(b"Model\xffInfer", b""))
        received = b""
        while b"shutdown" not in received:
            chunk = connection.recv(1 << 16)
            received += chunk or b"shutdown"
