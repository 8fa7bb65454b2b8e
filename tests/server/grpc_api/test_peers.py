import os
import socket

import pytest

from server.grpc_api.peers import end_connections


@pytest.fixture(params=["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def pair(request):
    """Both ends of a connection, and what gRPC calls the client's."""
    host = request.param
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"there is no {host}")
    with listening, socket.create_connection(listening.getsockname()[:2]) as client:
        port = client.getsockname()[1]
        with listening.accept()[0] as accepted:
            spoken = {
                "127.0.0.1": f"ipv4:127.0.0.1:{port}",
                "::1": f"ipv6:%5B::1%5D:{port}",
                "::ffff:127.0.0.1": f"ipv4:127.0.0.1:{port}",
            }
            yield client, accepted, spoken[host], port


def test_a_connection_is_ended(pair):
    client, accepted, peer, port = pair
    client.settimeout(10)
    assert end_connections({f"ipv4:127.0.0.2:{port}", "ipv6:%5B::2%5D:1"}) == 0
    assert end_connections({peer}) == 1
    assert client.recv(1) == b""
    assert accepted.recv(1) == b""


def test_looking_for_connections_leaves_no_descriptor_open(pair):
    before = os.listdir("/proc/self/fd")
    end_connections({pair[2]})
    assert len(os.listdir("/proc/self/fd")) == len(before)
