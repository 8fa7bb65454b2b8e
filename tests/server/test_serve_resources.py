"""What the machine has no more of: descriptors, space for caches; and clocks that jump."""

import ast
import contextlib
import os
import signal
import socket
from pathlib import Path

import numpy as np
import psutil
import pytest
from connections import few_descriptors
from networks import write_linear
from serving import Client, configuration, fake, wait_for

ROOT = Path(__file__).parents[2]


def is_right(client, model="all", add=3.0):
    x = np.array([[1.0, 2.0]], np.float32)
    answer = client.predict(model, x)
    assert answer.status == 200, answer.json
    np.testing.assert_array_equal(answer.values, x + np.float32(add))


@pytest.mark.process
def test_a_front_end_without_descriptors_serves_the_connections_that_it_has(serve):
    server = serve(configuration({"a": fake(0), "b": fake(6)}))
    is_right(server.client)
    front_end = server.child("front-end")
    few = front_end.num_fds() + 4
    with few_descriptors(front_end, few), contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection((server.host, server.port)))
        for _ in range(20):
            is_right(server.client)

    def served():
        client = Client(server.url)
        try:
            return client.get("/v2/health/ready").status_code == 200
        finally:
            client.close()

    wait_for(served, "a new connection to be served")


@pytest.mark.process
def test_a_worker_that_can_not_be_started_is_down_until_it_can(serve):
    """All instances of a member are gone: with a quorum the others answer, without one nobody."""
    members = {"a": fake(0), "b": fake(6)}
    config = configuration(members, ensemble={"quorum": 1}, on=2, where={"a": 0, "b": 1})
    if len(config["devices"]) < 2:
        pytest.skip("needs two cores")
    config["ensembles"]["strict"] = {"members": list(members)}
    server = serve(config)
    is_right(server.client)

    def status(name):
        return server.client.get(f"/v2/models/{name}/ready").status_code

    with few_descriptors(server.process, 3):
        server.kill("worker cpu:1")
        wait_for(lambda: status("b") == 503, "the worker to be given up", 60)
        assert [status(name) for name in ("all", "strict", "a")] == [200, 503, 200]
        assert server.is_ready()
        answer = server.predict("all", [[1, 2]])
        assert answer.members == ["a"]
        assert answer.json["parameters"]["degraded"] is True
        refused = server.predict("strict", [[1, 2]])
        assert (refused.status, "quorum" in refused.error) == (503, True)
    wait_for(lambda: status("strict") == 200, "the worker to come back", 60)
    is_right(server.client, "strict")


@pytest.mark.process
def test_a_cache_that_can_not_be_written_costs_time_only(serve, tmp_path):
    write_linear(tmp_path / "a.onnx", np.eye(2, dtype=np.float32))
    members = {"a": {"model": str(tmp_path / "a.onnx")}, "b": fake(6)}
    config = {**configuration(members), "placement": {"profile_s": 1}}
    home = tmp_path / "home"
    home.mkdir()
    is_right(serve(config, ENSEMBLED_CACHE="/dev/null/cache", HOME=str(home)).client)
    assert not [*home.iterdir()], "libraries, with their telemetry, write nothing there"


def descendants(mark):
    """All processes that have inherited a variable."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("ENSEMBLED_MARK") == mark:
                found.append(process)
        except psutil.Error:
            pass
    return found


@pytest.mark.process
@pytest.mark.parametrize("children", [0, 1, 3])
def test_a_supervisor_killed_during_start_up_leaves_no_orphans(serve, children):
    mark = f"{os.getpid()}-{children}"
    server = serve(configuration({"a": fake(0), "b": fake(6)}), ready=False, ENSEMBLED_MARK=mark)
    server.exits_with = (-signal.SIGKILL,)
    wait_for(lambda: len(server.children()) >= children, "children to be started")
    server.process.kill()
    server.wait_end()
    wait_for(lambda: not descendants(mark), "the children's end")


def test_no_deadline_is_kept_by_a_clock_that_can_jump():
    """The wall clock is for people and for HTTP's `Date`: it is told, and decides nothing.

    gRPC tells deadlines by it; these are put on the other clock as soon as a call is there. And
    certificates expire by it: `credentials` warns of that when it reads one, and decides nothing.
    The history tells when its windows began, and which of them are of the last week.
    """
    told = {
        "server/cli/history.py",
        "server/deployment/experience.py",
        "server/engine/statistics.py",
        "server/grpc_api/core.py",
        "server/http_api/connections.py",
        "server/rollout/figures.py",
        "server/security/credentials.py",
        "server/supervision/recorder.py",
        "workers/runtime/tracing.py",
    }
    using = set()
    for package in ("server", "workers"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and ast.unparse(node) in {
                    "time.time",
                    "time.time_ns",
                    "datetime.now",
                    "datetime.datetime.now",
                }:
                    using.add(path.relative_to(ROOT).as_posix())
    assert using <= told
