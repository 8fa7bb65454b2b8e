import resource
import subprocess
import sys

import pytest

from server.descriptors import check_descriptors, connection_limits
from server.errors import StartError

#: What the front-end holds, without bells of workers.
FRONT_END = 43


@pytest.mark.parametrize("devices", [1, 64])
def test_clients_leave_descriptors_to_the_server(devices):
    assert connection_limits(4096, devices) == (3072, 409)
    assert connection_limits(1, devices) == (1, 1)
    assert connection_limits(10**9, devices) == (65536, 65536)
    for limit in range(FRONT_END + devices + 8, 2000, 7):
        http, grpc = connection_limits(limit, devices)
        assert http + 2 * grpc + FRONT_END + devices <= limit, "they are distributed unevenly"


@pytest.mark.parametrize(("limit", "devices"), [(50, 1), (64, 16), (100, 64)])
def test_too_few_are_said_as_what_they_are(monkeypatch, limit, devices):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    with pytest.raises(StartError, match=rf"is {limit}, a server .* needs \d+ and one for each"):
        check_descriptors(devices)


def test_enough_are_enough(monkeypatch):
    for limit in (64, 1024, resource.RLIM_INFINITY):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (10, limit))
        check_descriptors(2)


def test_the_limit_is_raised_as_far_as_it_may():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    code = (
        "import resource; from server import descriptors\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))\n"
        "assert descriptors.raise_descriptor_limit() == 200\n"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (200, 200)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == hard
