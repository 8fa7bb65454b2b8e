"""Kills, hangs and failures of every process and member; every answer is checked."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import onnx
import psutil
import pytest
import zmq
from crowd import Load, occupy
from networks import write_linear
from onnx import TensorProto, helper
from scraping import Scrape
from serving import TINY, ask, canary, configuration, fake, post, title, wait_for

pytestmark = pytest.mark.process

POISON = -1234.0

THREE = {"a": fake(0), "b": fake(3), "c": fake(6)}


@pytest.fixture(params=["eventfd", "zmq"])
def serve(serve, request):
    """Start a server whose processes wake each other in one way or the other."""

    def start(config, **options):
        config["server"]["bell"] = request.param
        return serve(config, **options)

    return start


def write_identity(path):
    """A model that answers with its input, FP32 [n, 2]."""
    shape = ["n", 2]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), path)
    return path


def is_mean_of_three(answer, x):
    assert answer.status == 200, answer.json
    np.testing.assert_array_equal(answer.values, x + 3)
    assert answer.members == ["a", "b", "c"]
    assert answer.json["parameters"]["degraded"] is False


def is_mean_of_two(answer, x):
    assert answer.status == 200, answer.json
    np.testing.assert_array_equal(answer.values, x + 3)


# -- kill -9 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("on", [1, 2])
def test_workers_killed_under_load_lose_no_request(serve, on):
    members = {name: {**member, "batch_size": 4} for name, member in THREE.items()}
    server = serve(configuration(members, on=on))
    with Load(server, "all", is_mean_of_three) as load:
        load.wait_answers(50)
        for kill in range(3):
            server.kill(f"worker cpu:{kill % on}")
            load.wait_answers(30)
        load.stop()
    canary(server)


def test_a_worker_killed_while_it_predicts_loses_no_request(serve):
    slow = {name: {**fake(3 * i, sleep_ms=20), "batch_size": 2} for i, name in enumerate("abc")}
    server = serve(configuration(slow))
    with Load(server, "all", is_mean_of_three, clients=4) as load:
        for _ in range(3):
            load.wait_answers(3)
            server.kill("worker cpu:0")
        load.wait_answers(10)
        load.stop()
    canary(server)


def test_a_combiner_killed_under_load_loses_no_request(serve):
    server = serve(configuration(THREE))
    with Load(server, "all", is_mean_of_three) as load:
        for _ in range(3):
            load.wait_answers(40)
            server.kill("combiner")
        load.wait_answers(40)
        load.stop()
    canary(server)


def test_everybody_but_the_front_end_killed_at_once_loses_no_request(serve):
    server = serve(configuration(THREE, on=2))
    with Load(server, "all", is_mean_of_three) as load:
        load.wait_answers(40)
        for role in ("worker cpu:0", "combiner", "worker cpu:1"):
            server.child(role).kill()
        load.wait_answers(60)
        load.stop()
    canary(server)


def test_an_idle_worker_and_an_idle_combiner_are_replaced(serve):
    server = serve(configuration(THREE))
    for role in ("worker cpu:0", "combiner"):
        old = server.kill(role)
        assert server.child(role).pid != old.pid
        canary(server)


def test_a_front_end_killed_under_load_gives_no_wrong_answer(serve):
    server = serve(configuration(THREE))
    with Load(server, "all", is_mean_of_three) as load:
        load.tolerates_absence = True
        for _ in range(2):
            load.wait_answers(40)
            server.kill("front-end")
            wait_for(server.is_ready, "a new front-end")
        load.wait_answers(100)
        load.stop()
    canary(server)


def test_front_ends_killed_in_a_row_without_traffic_between(serve):
    server = serve(configuration(THREE))
    canary(server)
    for _ in range(2):
        server.kill("front-end")
        wait_for(server.is_ready, "a new front-end")
    for _ in range(3):
        canary(server)


def test_a_new_front_end_does_not_wait_for_a_worker_that_takes_long_to_start(serve):
    members = {"a": fake(0), "b": fake(6, sleep_ms=250)}  # its warm-up is four predictions
    config = configuration(members, ensemble={"quorum": 1}, on=2, where={"a": 0, "b": 1})
    if len(config["devices"]) < 2:
        pytest.skip("needs two cores")
    server = serve(config)
    server.kill("worker cpu:1")
    starting = server.kill("worker cpu:1", signal.SIGSTOP)  # it has its name, and loads
    server.kill("front-end")
    wait_for(server.is_ready, "a new front-end")
    answer = server.predict("all", [[1, 2]], timeout=1_500_000)
    np.testing.assert_array_equal(answer.values, [[1, 2]])
    assert answer.members == ["a"]
    starting.send_signal(signal.SIGCONT)
    wait_for(lambda: server.predict("all", [[1, 2]]).members == ["a", "b"], "the worker")


def test_a_worker_killed_after_a_new_front_end(serve):
    """What a worker remembers of the former front-end's jobs means nothing to the new one."""
    server = serve(configuration(THREE))
    with Load(server, "all", is_mean_of_three) as load:
        load.tolerates_absence = True
        load.wait_answers(100)
        server.kill("front-end")
        wait_for(server.is_ready, "a new front-end")
        load.tolerates_absence = False
        load.wait_answers(5)
        server.kill("worker cpu:0")
        load.wait_answers(50)
        load.stop()
    canary(server)


def test_a_killed_supervisor_leaves_no_orphans(serve):
    server = serve(
        configuration({"h": fake(0, fail="hang", fail_value=POISON, batch_size=1)}, **TINY)
    )
    server.exits_with = (-signal.SIGKILL,)
    with ThreadPoolExecutor(2) as pool:
        # Even a worker that is stuck in a prediction must end.
        stuck = occupy(server, pool, "h", POISON)
        children = server.children()
        assert len(children) >= 3
        server.process.kill()
        wait_for(lambda: not any(map(title, children)), "the children's end")
        assert isinstance(stuck.exception(), httpx.TransportError)
    left = set(server.temporary.glob("ensembled*"))
    assert left, "the supervisor could not put its sockets away"
    canary(serve(configuration({"a": fake(0)}), TMPDIR=str(server.temporary)), "a", 0.0)
    assert not left & set(server.temporary.glob("ensembled*")), "the next one does"


def test_what_a_process_dies_of_is_logged(serve):
    server = serve(configuration(THREE))
    combiner = server.child("combiner")
    (path,) = {
        connection.laddr
        for connection in combiner.net_connections("unix")
        if connection.laddr.endswith("combiner.ipc")
    }
    with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        stranger.connect(f"ipc://{path}")
        stranger.send(b"no message of ours")
        wait_for(lambda: not title(combiner), "the end of the combiner")
    wait_for(lambda: "combiner died (" in server.stderr, "a line of the log")
    canary(server)


# -- hangs -------------------------------------------------------------------------------------


def test_a_stopped_worker_is_replaced_and_nothing_is_lost(serve):
    server = serve(configuration(THREE))
    with Load(server, "all", is_mean_of_three, clients=3) as load:
        load.wait_answers(20)
        stopped = server.kill("worker cpu:0", signal.SIGSTOP)
        wait_for(lambda: not title(stopped), "the end of the stopped worker")
        load.wait_answers(20)
        load.stop()
    assert server.child("worker cpu:0").pid != stopped.pid
    canary(server)


def test_a_stopped_combiner_is_replaced_and_nothing_is_lost(serve):
    server = serve(configuration(THREE))
    with Load(server, "all", is_mean_of_three, clients=3) as load:
        load.wait_answers(20)
        stopped = server.kill("combiner", signal.SIGSTOP)
        answer = server.predict("all", [[1, 2]], timeout=50_000)
        assert answer.status == 504, "a deadline holds without the combiner"
        assert title(stopped), "nobody has found the hang yet"
        wait_for(lambda: not title(stopped), "the end of the stopped combiner")
        load.wait_answers(20)
        load.stop()
    canary(server)


def test_a_stopped_front_end_is_replaced_and_gives_no_wrong_answer(serve):
    server = serve(configuration(THREE))
    with Load(server, "all", is_mean_of_three, clients=3) as load:
        load.tolerates_absence = True
        load.wait_answers(20)
        stopped = server.kill("front-end", signal.SIGSTOP)
        wait_for(lambda: not title(stopped), "the end of the stopped front-end")
        wait_for(server.is_ready, "a new front-end")
        load.wait_answers(20)
        load.stop()
    canary(server)


def test_a_row_that_hangs_its_worker(serve):
    """It is killed; with a quorum and a deadline the others answer, in the end it is given up."""
    members = {"a": fake(0), "b": fake(3), "h": fake(6, fail="hang", fail_value=POISON)}
    server = serve(
        configuration(members, ensemble={"quorum": 2}, on=2, where={"a": 0, "b": 0, "h": 1})
    )
    first = server.child("worker cpu:1")
    x = np.array([[POISON, 5.0]], np.float32)
    answer = server.predict("all", x, timeout=1_500_000)
    np.testing.assert_array_equal(answer.values, x + 1.5)
    assert (answer.members, answer.json["parameters"]["degraded"]) == (["a", "b"], True)
    wait_for(lambda: not title(first), "the end of the worker that hangs")
    canary(server)


@pytest.mark.slow
def test_a_row_that_hangs_every_worker_is_given_up(serve):
    members = {"a": fake(0), "h": fake(6, fail="hang", fail_value=POISON)}
    server = serve(configuration(members))
    answer = server.predict("all", [[POISON, 5.0]])
    assert answer.status == 500
    assert "'h'" in answer.error
    canary(server)


# -- rows that hurt a member -------------------------------------------------------------------


def ask_together(server, model, payloads, **options):
    """All payloads at once, a connection each; the answers in order."""
    barrier = threading.Barrier(len(payloads))

    def ask_one(x):
        barrier.wait()
        return ask(server, model, [x], **options)

    with ThreadPoolExecutor(len(payloads)) as pool:
        return list(pool.map(ask_one, payloads))


def test_a_row_that_kills_its_worker_fails_alone(serve):
    members = {"a": fake(0), "killer": fake(6, fail="exit", fail_value=POISON, sleep_ms=20)}
    server = serve(configuration(members))
    payloads = [[float(i), 1.0] for i in range(7)]
    answers = ask_together(server, "all", [*payloads, [POISON, 1.0]])
    assert answers[-1].status == 500
    assert "'killer'" in answers[-1].error
    for answer, x in zip(answers[:-1], payloads, strict=True):
        np.testing.assert_array_equal(answer.values, [np.array(x) + 3])
    canary(server)


@pytest.mark.parametrize(("fail", "says"), [("raise", "as configured"), ("nan", "finite")])
def test_a_row_on_which_a_member_fails_fails_alone(serve, fail, says):
    # Each batch takes a while, so that what comes meanwhile shares the next one.
    members = {
        "a": fake(0, sleep_ms=20),
        "picky": fake(6, fail=fail, fail_value=POISON, sleep_ms=20),
    }
    server = serve(configuration(members))
    for _ in range(3):
        payloads = [[float(i), 1.0] for i in range(11)]
        payloads.insert(4, [POISON, 1.0])
        answers = ask_together(server, "all", payloads)
        for x, answer in zip(payloads, answers, strict=True):
            if x[0] == POISON:
                assert answer.status == 500
                assert "'picky'" in answer.error
            else:
                np.testing.assert_array_equal(answer.values, [np.array(x) + 3])
    x = np.array([[1, 1], [POISON, 2], [3, 3]], np.float32)
    assert server.predict("all", x).status == 500, "one row of three"
    assert says in server.predict("picky", x).error
    canary(server)


@pytest.mark.parametrize("fail", ["raise", "nan", "alloc"])
def test_a_quorum_answers_without_the_member_that_failed(serve, fail):
    members = {"a": fake(0), "picky": fake(60, fail=fail, fail_value=POISON), "c": fake(6)}
    server = serve(configuration(members, ensemble={"quorum": 2}))
    x = np.array([[POISON, 5.0]], np.float32)
    for binary in (True, False):
        answer = server.predict("all", x, binary=binary)
        np.testing.assert_array_equal(answer.values, x + 3)
        assert answer.members == ["a", "c"]
        assert answer.json["parameters"]["degraded"] is True
    # Of a request's members only those count that answered all of its rows.
    both = np.array([[POISON, 5.0], [1.0, 1.0]], np.float32)
    answer = server.predict("all", both)
    np.testing.assert_array_equal(answer.values, both + np.float32([[3], [22]]))
    assert answer.members == ["a", "c"]
    assert server.predict("picky", x).status == 500
    canary(server, add=22.0)


# -- deadlines ---------------------------------------------------------------------------------

SLOW = {"a": fake(0), "b": fake(2), "slow": fake(7, sleep_ms=1200)}


def test_a_deadline_with_a_quorum_and_without(serve):
    where = {"a": 0, "b": 0, "slow": 1}
    config = configuration(SLOW, ensemble={"quorum": 2, "deadline_ms": 800}, on=2, where=where)
    config["ensembles"]["strict"] = {"members": list(SLOW)}
    server = serve(config)
    x = np.array([[5, 6], [7, 8]], np.float32)
    for options in ({}, {"timeout": 60_000_000}, {"timeout": 600_000}):
        answer = server.predict("all", x, **options)
        np.testing.assert_array_equal(answer.values, x + 1)
        assert (answer.members, answer.json["parameters"]["degraded"]) == (["a", "b"], True)
    answer = server.predict("strict", x, timeout=50_000)
    assert answer.status == 504
    assert "deadline" in answer.error
    answer = server.predict("strict", x)
    np.testing.assert_allclose(answer.values, x + 3)
    assert answer.members == list(SLOW)


def test_a_deadline_while_waiting_for_slots(serve):
    server = serve(configuration({"slow": fake(1, sleep_ms=100, batch_size=1)}, **TINY))
    rows = server.client.get("/v2/models/slow/config").json()["max_batch_size"]
    assert rows >= 8
    x = np.arange(2 * rows).reshape(rows, 2)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask, server, "slow", x, timeout=t) for t in (0, 300_000)]
        first, second = (request.result() for request in asked)
    np.testing.assert_array_equal(first.values, x + 1)
    assert second.status in {429, 504}, "refused at once, if it came second"
    canary(server, "slow", 1.0)


# -- clients that go, and a full arena ---------------------------------------------------------


def test_clients_that_disconnect_free_their_rows(serve):
    server = serve(configuration({"slow": fake(1, sleep_ms=30, batch_size=1)}, **TINY))
    for _ in range(3):
        # Each takes three times as long as the test waits for room, were its rows not dropped.
        connections = [post(server, "slow", np.ones((3000, 2))) for _ in range(2)]
        wait_for(lambda: server.predict("slow", [[1, 2]], timeout=1).status == 429, "being full")
        for connection in connections:
            connection.close()
        wait_for(lambda: server.predict("slow", [[1, 2]]).status == 200, "room")
        canary(server, "slow", 1.0)


@pytest.mark.parametrize("waiting", [0, 1])
def test_a_full_arena_refuses_and_answers_what_it_accepted(serve, waiting):
    config = {**TINY, "max_waiting_requests": waiting}
    server = serve(configuration({"slow": fake(1, sleep_ms=30, batch_size=1)}, **config))
    canary(server, "slow", 1.0)
    x = np.array([[1, 2], [3, 4]], np.float32)

    def insist():
        while (answer := ask(server, "slow", x)).status == 429:
            pass  # somebody else had the seat
        return answer

    with ThreadPoolExecutor(3) as pool:
        large = pool.submit(ask, server, "slow", np.ones((80, 2)))  # it has one of the seats
        small = [pool.submit(insist) for _ in range(2)]
        refused = wait_for(
            lambda: (answer := server.predict("slow", x, timeout=1)).status == 429 and answer,
            "a full house",
        )
        assert int(refused.headers["retry-after"]) >= 1
        assert "wait" in refused.error
        assert (large.result().values == 2.0).all()
        for request in small:
            np.testing.assert_array_equal(request.result().values, x + 1)
    canary(server, "slow", 1.0)


# -- a worker that is down ---------------------------------------------------------------------


@pytest.mark.parametrize("mended_by", ["its former content", "a reload"])
def test_a_worker_that_dies_at_every_start_is_left_out_until_it_lives(serve, tmp_path, mended_by):
    model = write_identity(tmp_path / "a.onnx")
    members = {"a": {"model": str(model), "batch_size": 8}, "b": fake(2)}
    config = configuration(members, ensemble={"quorum": 1}, on=2, where={"a": 0, "b": 1})
    if len(config["devices"]) < 2:
        pytest.skip("needs two cores")
    server = serve(config)
    x = np.array([[5.0, 7.0]], np.float32)
    np.testing.assert_array_equal(server.predict("all", x).values, x + 1)
    content, status = model.read_bytes(), model.stat()
    write_linear(model, np.eye(2))  # in place: links to the file are of no use
    server.kill("worker cpu:0")

    def state(name):
        return server.client.get(f"/v2/models/{name}/ready").status_code

    wait_for(lambda: state("a") == 503, "the worker to be given up", deadline_s=60)
    assert "a.onnx is not what it was when it was deployed" in server.stderr
    assert server.is_ready()
    assert (state("all"), state("b")) == (200, 200)
    answer = server.predict("all", x)
    np.testing.assert_array_equal(answer.values, x + 2)
    assert answer.members == ["b"]
    assert answer.json["parameters"]["degraded"] is True
    refused = server.predict("a", x)
    assert refused.status == 503
    assert "quorum" in refused.error
    server.kill("front-end")
    wait_for(server.is_ready, "a new front-end")
    assert (state("a"), state("all")) == (503, 200), "it knows who is down"
    assert Scrape(server.client).value("worker_given_up", device="cpu:0") == 1
    if mended_by == "a reload":  # which serves what the file is now
        server.process.send_signal(signal.SIGHUP)
    else:
        model.write_bytes(content)
        os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))
    wait_for(lambda: state("a") == 200, "the worker to come back", deadline_s=60)
    np.testing.assert_array_equal(server.predict("all", x).values, x + 1)


def test_descriptors_and_memory_come_back(serve):
    server = serve(configuration(THREE))
    front_end = server.child("front-end")

    def burst():
        with Load(server, "all", is_mean_of_three, clients=8) as load:
            load.wait_answers(200)
            load.stop()
        connections = [post(server, "all", np.ones((3, 2))) for _ in range(20)]
        for connection in connections:
            connection.close()
        canary(server)

    burst()
    before = settled(front_end)
    burst()
    wait_for(lambda: settled(front_end) <= before, "descriptors to come back")
    for role in ("worker cpu:0", "combiner"):
        for _ in range(2):
            server.kill(role)
            server.child(role)
            canary(server)
    wait_for(lambda: settled(front_end) <= before, "descriptors to come back")


def settled(process: psutil.Process) -> int:
    return process.num_fds()
