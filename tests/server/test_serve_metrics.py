"""The whole server's metrics: what is documented is told, and what happened is counted."""

import json
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from grpc_calls import connected, infer_request
from scraping import Scrape, documented_metrics, wait_counted, whole_scrape
from serving import Client, ask, configuration, fake, running, wait_for

from server.cli.key import make_key

pytestmark = pytest.mark.process

POISON = -1234.0
LIMIT = 1 << 20
X = np.array([[5, 6], [7, 8]], np.float32)
OPEN = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    members = {
        "a": fake(0),
        "b": fake(2),
        "picky": fake(4, fail="raise", fail_value=POISON),
        "slow": fake(0, sleep_ms=40, batch_size=1),
    }
    config = configuration(members, max_request_bytes=LIMIT)
    config["ensembles"]["all"]["members"] = ["a", "b", "picky"]
    config["members"]["tried"] = {
        "model": {"versions": {"1": fake(), "2": fake()}},
        "rollout": {"version": "2", "mode": "shadow"},
    }
    config["ensembles"]["any"] = {"members": ["a", "b", "picky"], "quorum": 1}
    for device in config["devices"]:
        device["watts"] = 10  # without a meter, its energy is estimated
    with running(config, tmp_path_factory.mktemp("metrics")) as server:
        yield server


@pytest.fixture
def change(server):
    """By how much a value has changed since the test began."""
    wait_counted(server.client)
    before = Scrape(server.client)

    def change(name, **labels):
        return Scrape(server.client).value(name, **labels) - before.value(name, **labels)

    return change


def test_what_is_documented_is_told_and_the_other_way_round(server):
    server.predict("all", X)
    server.predict("all", X, name="y")
    server.predict("tried", X)
    scrape, documented = whole_scrape(server.client), documented_metrics()
    assert scrape.types == {name: kind for name, (kind, _) in documented.items()}
    for name, (_, labels) in documented.items():
        told = scrape.labels(name)
        assert told == labels or (not told and "gpu" in labels), name


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)")
def test_promtool_finds_nothing_to_complain_of(server):
    server.predict("all", X)
    text = server.client.get("/metrics").text
    told = subprocess.run(
        ["promtool", "check", "metrics"], input=text, check=False, capture_output=True, text=True
    )
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


def test_open_metrics_for_those_who_ask(server):
    plain = server.client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    response = server.client.http.get("/metrics", headers=OPEN)
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")
    assert "# UNIT ensembled_request_duration_seconds seconds\n" in response.text


def test_requests_of_both_protocols_are_counted_by_what_became_of_them(server, change):
    poison = np.full((1, 2), POISON, np.float32)
    assert server.predict("all", X).status == 200
    with connected(server.grpc) as channel:
        channel.infer("all", X)
        for model in ("all", "nobody"):
            with pytest.raises(grpc.RpcError):
                channel.infer(model, X[:, :1])
        with pytest.raises(grpc.RpcError):
            channel.bytes_call("ModelInfer", b"\xff\xff")
    assert server.predict("all", X, name="y").status == 400
    assert server.predict("all", poison).status == 500
    assert server.predict("all", np.zeros((LIMIT, 2))).status == 413
    assert server.predict("slow", X, timeout=1000).status == 504
    assert server.predict("nobody", X).status == 404
    answer = server.predict("any", poison)
    assert (answer.status, answer.members) == (200, ["a", "b"])
    wait_counted(server.client)
    for model, outcome, count in (
        ("all", "ok", 2),
        ("all", "invalid", 2),
        ("all", "member_failed", 1),
        ("all", "too_large", 1),
        ("any", "degraded", 1),
        ("any", "ok", 0),
        ("slow", "deadline", 1),
        ("(none)", "unknown_model", 2),
        ("(none)", "invalid", 1),
    ):
        assert change("requests_total", model=model, outcome=outcome) == count, (model, outcome)
    assert change("refusals_total", model="all", reason="too_large") == 1
    assert change("rows_total", model="all") == 4
    assert change("rows_total", model="any") == 1
    assert change("member_failed_rows_total", member="picky") == 2
    assert change("failed_request_duration_seconds_count", model="all") == 4


def test_times_by_stage_add_up(server, change):
    for _ in range(3):
        server.predict("all", X)
    whole = "request_duration_seconds"
    stage = "request_stage_duration_seconds"
    stages = ("input", "queue", "infer", "output")
    assert change(f"{whole}_count", model="all") == 3
    assert change(f"{whole}_bucket", model="all", le="+Inf") == 3
    assert {change(f"{stage}_count", model="all", stage=name) for name in stages} == {3}
    parts = sum(change(f"{stage}_sum", model="all", stage=name) for name in stages)
    assert 0 < parts == pytest.approx(change(f"{whole}_sum", model="all"))


def test_batches_by_instance(server, change):
    server.predict("a", np.zeros((5, 2)))
    device = {"device": "cpu:0"}
    wait_counted(server.client)
    assert change("batch_rows_count", member="a", **device) == 1
    assert change("batch_rows_sum", member="a", **device) == 5
    assert change("batch_rows_bucket", member="a", le="4.0", **device) == 0
    assert change("batch_rows_bucket", member="a", le="8.0", **device) == 1
    assert change("member_rows_total", member="a") == 5
    assert change("batch_wait_seconds_count", member="a") == 1
    seconds = change("batch_duration_seconds_sum", member="a", **device)
    assert seconds == pytest.approx(change("instance_busy_seconds_total", member="a", **device))
    assert Scrape(server.client).value("instance_max_batch_rows", member="slow", **device) == 1


def test_what_waits_is_seen_and_gone_afterwards(server):
    def flying(scrape):
        return (
            scrape.value("requests_in_flight", model="slow", priority="normal"),
            scrape.value("arena_used_slots", arena="0") > 0,
            scrape.value("member_pending_rows", member="slow") > 0,
            scrape.value("member_oldest_pending_seconds", member="slow") > 0,
            scrape.value("device_open_jobs", device="cpu:0") > 0,
        )

    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(ask, server, "slow", np.zeros((40, 2)))
        wait_for(
            lambda: flying(Scrape(server.client)) == (1, True, True, True, True), "a row that waits"
        )
        assert request.result().status == 200
    wait_for(
        lambda: flying(Scrape(server.client)) == (0, False, False, False, False),
        "nothing that waits",
    )


@contextmanager
def gone_in_the_middle(server):
    """A client that goes before its request is complete."""
    with socket.create_connection((server.host, server.port)) as client:
        client.sendall(
            b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\n{"
        )
        yield


@contextmanager
def gone_while_it_waits(server):
    """A client that goes before it has its answer."""
    x = np.zeros((100, 2), np.float32)
    tensor = {"name": "x", "shape": x.shape, "datatype": "FP32", "data": x.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    with socket.create_connection((server.host, server.port)) as client:
        client.sendall(head + body)
        yield


@contextmanager
def cancelled(server):
    """A call over gRPC that is cancelled."""
    with connected(server.grpc) as channel:
        call = channel.method("ModelInfer").future(infer_request("slow", np.zeros((100, 2))))
        yield
        call.cancel()


@pytest.mark.parametrize("leave", [gone_in_the_middle, gone_while_it_waits, cancelled])
def test_a_client_that_goes_has_gone(server, change, leave):
    with leave(server):
        if leave is not gone_in_the_middle:
            flying = {"model": "slow", "priority": "normal"}
            wait_for(
                lambda: Scrape(server.client).value("requests_in_flight", **flying), "a request"
            )
    wait_for(
        lambda: change("requests_total", model="slow", outcome="disconnected") == 1, "its outcome"
    )


def test_a_worker_that_dies_is_missed_and_its_restart_counted(server, change):
    role = {"role": "worker", "device": "cpu:0"}

    def since():
        return Scrape(server.client).value("process_start_time_seconds", **role)

    first = since()
    server.kill("worker cpu:0")
    wait_for(lambda: change("process_restarts_total", **role) == 1, "the restart")
    wait_for(lambda: Scrape(server.client).value("worker_up", device="cpu:0"), "the worker")
    wait_for(lambda: since() > first, "a fresh look at the processes")
    scrape = Scrape(server.client)
    assert scrape.value("model_members_up", model="all") == 3
    assert scrape.value("model_ready", model="all") == 1


def test_every_process_has_its_memory_and_files(server):
    wait_for(lambda: Scrape(server.client).value("event_loop_lag_seconds_count"), "a lag")
    scrape = whole_scrape(server.client)
    for role, device in (
        ("supervisor", ""),
        ("front-end", ""),
        ("combiner", ""),
        ("worker", "cpu:0"),
    ):
        labels = {"role": role, "device": device}
        assert scrape.value("process_up", **labels) == 1
        assert scrape.value("process_resident_memory_bytes", **labels) > 1 << 20
        assert scrape.value("process_open_fds", **labels) > 2
    assert scrape.value("connections") >= 1
    assert scrape.value("ready") == 1
    assert scrape.value("draining") == 0


def test_who_is_refused_at_the_door_is_counted_and_draining_is_seen(serve, tmp_path):
    keys = {name: make_key(name, (name,)) for name in ("infer", "admin")}
    path = tmp_path / "keys.yaml"
    path.write_text("\n".join(key.entry for key in keys.values()) + "\n")
    path.chmod(0o600)
    members = {"slow": fake(0, sleep_ms=100, batch_size=1)}
    server = serve(configuration(members, api_keys_file=str(path)))
    monitor = Client(server.url)
    monitor.http.headers["Authorization"] = f"Bearer {keys['admin'].key}"
    server.client.http.headers["Authorization"] = f"Bearer {keys['infer'].key}"
    try:
        assert monitor.predict("slow", X).status == 403
        assert ask(server, "slow", X).status == 401
        scrape = Scrape(monitor)
        for word in ("unauthenticated", "forbidden"):
            assert scrape.value("requests_total", model="(none)", outcome=word) == 1
            assert scrape.value("refusals_total", model="(none)", reason=word) == 1
        with ThreadPoolExecutor(1) as pool:
            request = pool.submit(server.client.predict, "slow", np.zeros((30, 2)))
            flying = {"model": "slow", "priority": "normal"}
            wait_for(lambda: Scrape(monitor).value("requests_in_flight", **flying), "a request")
            server.process.terminate()
            wait_for(lambda: Scrape(monitor).value("draining"), "that it drains")
            scrape = Scrape(monitor)
            assert (scrape.value("ready"), scrape.value("model_ready", model="slow")) == (0, 0)
            assert request.result().status == 200
    finally:
        monitor.close()
    server.wait_end()


def test_a_new_front_end_counts_anew_but_knows_that_it_is_not_the_first(server):
    assert server.predict("all", X).status == 200
    server.kill("front-end")
    wait_for(server.is_ready, "the next front-end")
    client = Client(server.url)
    try:
        scrape = Scrape(client)
    finally:
        client.close()
    assert scrape.value("process_restarts_total", role="front-end", device="") == 1
    assert scrape.value("process_restarts_total", role="worker", device="cpu:0") >= 0
    assert scrape.value("requests_total", model="all", outcome="ok") == 0
    assert scrape.value("request_duration_seconds_count", model="all") == 0
