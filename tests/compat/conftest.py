"""What all compatibility tests share: one digits server, and what it must answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    # The project's ordinary run has none of the clients; this suite is started by `make compat`.
    return None if config.rootpath == HERE else True


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory):  # noqa: ANN201
    import reference

    return reference.load(tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="session")
def server(digits: object) -> Iterator[object]:  # the reference makes the networks first
    import digits_server

    with digits_server.running() as found:
        yield found


@pytest.fixture(scope="module")
def changeable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A server whose models clients may load and unload, and its directory."""
    import adding_server

    with adding_server.running(tmp_path_factory.mktemp("adding")) as found:
        yield found


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
