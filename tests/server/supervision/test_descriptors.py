import resource
import subprocess
import sys

from server.supervision.descriptors import connection_room, grpc_connection_room


def test_clients_leave_descriptors_to_the_server():
    assert connection_room(1024) == 768
    assert connection_room(1) == 1
    assert connection_room(10**9) == 65536
    assert grpc_connection_room(1024) == 102
    assert connection_room(1024) + 2 * grpc_connection_room(1024) < 1024, "they are dealt unevenly"


def test_the_limit_is_raised_as_far_as_it_may():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    code = (
        "import resource; from server.supervision import descriptors\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))\n"
        "assert descriptors.raise_descriptor_limit() == 200\n"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (200, 200)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == hard
