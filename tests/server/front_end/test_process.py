import resource
import subprocess
import sys

from server.front_end.process import connection_limits


def test_clients_leave_descriptors_to_the_server():
    assert connection_limits(1024) == (768, 102)
    assert connection_limits(1) == (1, 1)
    assert connection_limits(10**9) == (65536, 65536)
    http, grpc = connection_limits(1024)
    assert http + 2 * grpc < 1024, "they are distributed unevenly"


def test_the_limit_is_raised_as_far_as_it_may():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    code = (
        "import resource; from server.front_end import process\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))\n"
        "assert process.raise_descriptor_limit() == 200\n"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (200, 200)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == hard
