import socket

import pytest

from server.errors import StartError
from server.supervision.sockets import bind_port, enable_keepalive, format_address, hold_port


def listen_beside(held):
    """What a front-end's gRPC server does."""
    beside = socket.socket(held.family, socket.SOCK_STREAM)
    beside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    beside.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    beside.bind(held.getsockname())
    beside.listen()
    return beside


@pytest.fixture(params=["127.0.0.1", "::1"])
def host(request):
    try:
        bind_port(request.param, 0).close()
    except StartError:
        pytest.skip(f"there is no {request.param}")
    return request.param


def port_of(bound):
    return bound.getsockname()[1]


def test_an_address_that_others_can_use(host):
    with bind_port(host, 0) as bound:
        shown = f"[{host}]" if ":" in host else host
        assert format_address(bound) == f"{shown}:{port_of(bound)}"


@pytest.mark.parametrize("claim", [bind_port, hold_port])
def test_a_port_that_somebody_listens_on_is_refused(host, claim):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as taken:
        port = port_of(taken)
        with pytest.raises(StartError, match=f"can't listen on {host}:{port}: .* in use"):
            claim(host, port)


@pytest.mark.parametrize("listened", [False, True])
def test_a_port_that_is_held_is_refused(host, listened):
    with hold_port(host, 0) as held:
        beside = listen_beside(held) if listened else socket.socket()
        with beside:
            for claim in (bind_port, hold_port):
                with pytest.raises(StartError, match="in use"):
                    claim(host, port_of(held))


def test_servers_come_and_go_on_a_held_port(host):
    with hold_port(host, 0) as held:
        for _ in range(3):
            address = (host, port_of(held))
            with listen_beside(held) as server, socket.create_connection(address) as client:
                accepted, _ = server.accept()
                accepted.close()  # first, so it is this side that waits in TIME_WAIT
                assert client.recv(1) == b""
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)


def test_a_port_is_free_again_at_once(host):
    held = hold_port(host, 0)
    port = port_of(held)
    with held, listen_beside(held) as server, socket.create_connection((host, port)) as client:
        accepted, _ = server.accept()
        accepted.close()
        assert client.recv(1) == b""
    hold_port(host, port).close()


def test_hosts_that_are_none_of_ours():
    for host in ("192.0.2.1", "no.such.host.invalid"):
        with pytest.raises(StartError, match=f"can't listen on {host}:1: "):
            hold_port(host, 1)


def test_connections_ask_whether_their_clients_are_still_there(host):
    with bind_port(host, 0) as bound:
        enable_keepalive(bound)
        bound.listen()
        with socket.create_connection((host, port_of(bound))), bound.accept()[0] as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            asks = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            assert [accepted.getsockopt(socket.IPPROTO_TCP, ask) for ask in asks] == [60, 10, 3]
