"""A client that connects, and then says nothing, is let go before it has shaken hands."""

import asyncio
import socket

import pytest
import uvloop
from certificates import Authority

from server.grpc_api import server as grpc_server
from server.grpc_api.core import CoreServer
from server.http_api import server as http_server
from server.http_api.connections import Connections
from server.inference.spec import ClientLimits
from server.inference.unread_responses import UnreadResponses
from server.security.spec import TlsFiles
from server.security.tls import make_context

SHORT_S = 0.2


@pytest.fixture
def files(tmp_path):
    certificate, key = Authority(tmp_path).sign("server")
    return TlsFiles(certificate.read_bytes(), key.read_bytes())


async def wait_closed(port):
    """Connect, say nothing, and wait until the server has had enough."""
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while await reader.read(1 << 16):
                pass
        except ConnectionError:
            pass
        finally:
            writer.close()


def test_over_http(files, monkeypatch):
    monkeypatch.setattr(http_server, "HANDSHAKE_S", SHORT_S)

    async def run():
        with socket.create_server(("127.0.0.1", 0)) as listening:
            connections = Connections(ClientLimits(), 10, UnreadResponses(1 << 20), fast=None)
            context = make_context(files)
            server = http_server.HttpServer(None, connections, listening=listening, context=context)
            server.config.load()
            server.lifespan = server.config.lifespan_class(server.config)
            await server.startup()
            await wait_closed(listening.getsockname()[1])
            for one in server.servers:
                one.close()

    uvloop.run(run())


def test_over_grpc(files, monkeypatch):
    monkeypatch.setattr(grpc_server, "HANDSHAKE_S", SHORT_S)

    async def run():
        options = grpc_server._options(1 << 20, ClientLimits(), 100)
        credentials = grpc_server.Certificates(files).credentials()
        server = CoreServer("127.0.0.1:0", credentials, options, lambda call: None)
        server.start()
        await wait_closed(server.port)
        await server.stop(0)

    asyncio.run(run())
