"""Stub servers, and clients of both kinds."""

import asyncio
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "support"))

from ensembled_client import AsyncEnsembleClient, EnsembleClient, RetryPolicy  # noqa: E402
from stub_servers import GrpcServer, HttpServer, Model  # noqa: E402


class Blocking:
    """The asynchronous client, called like the other one."""

    def __init__(self, *arguments, **options):
        self._runner = asyncio.Runner()
        self._client = AsyncEnsembleClient(*arguments, **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._runner is not None:
            self._runner.run(self._client.aclose())
            self._runner.close()
            self._runner = None

    def __getattr__(self, name):
        method = getattr(self._client, name)

        async def call(*arguments, **options):
            return await method(*arguments, **options)

        return lambda *arguments, **options: self._runner.run(call(*arguments, **options))


KINDS = {"sync": EnsembleClient, "async": Blocking}
AT_ONCE = RetryPolicy(retries=3, first_pause_s=0)


@pytest.fixture
def model():
    """What the stub servers serve; tests change it."""
    return Model()


@pytest.fixture(params=["http", "grpc"])
def url(request, model):
    """A server of each protocol."""
    with (HttpServer if request.param == "http" else GrpcServer)(model) as server:
        yield server.url


@pytest.fixture
def http_url(model):
    with HttpServer(model) as server:
        yield server.url


@pytest.fixture
def grpc_url(model):
    with GrpcServer(model) as server:
        yield server.url


@pytest.fixture(params=list(KINDS))
def make(request):
    """Make a client of each kind, with the same methods; no pauses between tries."""
    made = []

    def start(url, **options):
        made.append(KINDS[request.param](url, **{"retries": AT_ONCE, **options}).__enter__())
        return made[-1]

    yield start
    for client in made:
        client.__exit__(None, None, None)


@pytest.fixture
def client(make, url):
    """A client of each kind, over each protocol."""
    return make(url)
