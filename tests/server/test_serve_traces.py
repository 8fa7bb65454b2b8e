"""Traces of the real server: from the protocols down to the workers, and through deaths."""

import json
import os
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from collector import collecting
from crowd import Load
from ensembled_client.wire.messages import SERVICE, message_class
from grpc_calls import connected, infer_request
from serving import ask, configuration, fake, wait_for

pytestmark = pytest.mark.process

FRONT_END = ["input", "queue", "infer", "output"]


@pytest.fixture
def collector():
    with collecting() as collector:
        yield collector


def traceparent(trace, *, sampled=True, parent="00f067aa0ba902b7"):
    return f"00-{trace}-{parent}-{int(sampled):02d}"


def new_trace():
    return os.urandom(16).hex()


def infer(server, model, x, **headers):
    x = np.asarray(x, np.float32)
    tensor = {"name": "x", "shape": x.shape, "datatype": "FP32", "data": x.ravel().tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    return server.client.post(f"/v2/models/{model}/infer", body, headers)


def gauge(server, name):
    """A metric's value now."""
    found = re.search(
        f"^{re.escape(name)} (\\S+)$", server.client.get("/metrics").text, re.MULTILINE
    )
    return float(found.group(1))


def open_jobs(server):
    return gauge(server, 'ensembled_device_open_jobs{device="cpu:0"}')


def check_tree(spans, server, name):
    """One server span with all its children, of front-end and workers."""
    (root,) = [span for span in spans if span.name == name]
    assert root.parent == "00f067aa0ba902b7"
    assert not root.is_error
    assert root.about["ensembled.model"] == "all"
    assert root.about["ensembled.rows"] == 2
    assert root.about["ensembled.members"] == ["a", "b"]
    children = [span for span in spans if span is not root]
    assert {span.parent for span in children} == {root.id}
    assert [span.name for span in children if span.name in FRONT_END] == FRONT_END
    predicted = {span.name: span for span in children if span.name not in FRONT_END}
    assert set(predicted) == {"predict a", "predict b"}
    for member, device in (("a", "cpu:0"), ("b", "cpu:1")):
        about = predicted[f"predict {member}"].about
        assert (about["ensembled.member"], about["ensembled.device"]) == (member, device)
        assert about["ensembled.batch.rows"] == 2
        assert re.fullmatch(r"\[\d+,\d+\)", about["ensembled.batch.ranges"])
    for span in spans:
        role = f"worker {span.about['ensembled.device']}" if "predict" in span.name else "front-end"
        assert span.process["process.pid"] == server.child(role).pid
        assert span.process["service.name"] == "ensembled"
        assert root.start_ns <= span.start_ns + 1_000_000
        assert span.start_ns <= span.end_ns


@pytest.fixture
def two(serve, collector):
    """A server with two members, each on a device of its own."""
    config = configuration(
        {"a": fake(0), "b": fake(2)},
        on=2,
        where={"a": 0, "b": 1},
        tracing={"endpoint": collector.url},
    )
    if len(config["devices"]) < 2:
        pytest.skip("needs two cores")
    return serve(config)


def test_a_request_over_two_members_is_one_trace(two, collector):
    ignored, whole = new_trace(), new_trace()
    assert infer(two, "all", [[1, 2]]).status == 200  # without a trace, and sample is 0
    given = {"traceparent": traceparent(ignored, sampled=False)}
    assert infer(two, "all", [[1, 2]], **given).status == 200
    answer = infer(two, "all", [[1, 2], [3, 4]], traceparent=traceparent(whole))
    np.testing.assert_array_equal(answer.values, [[2, 3], [4, 5]])
    check_tree(collector.wait_spans(whole, 7), two, "POST /v2/models/{model}/infer")

    called, streamed = new_trace(), new_trace()
    request = infer_request("all", [[1, 2], [3, 4]])
    with connected(two.grpc) as channel:
        given = (("traceparent", traceparent(called)),)
        channel.bytes_call("ModelInfer", request.SerializeToString(), metadata=given)
        stream = channel.raw.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            response_deserializer=message_class("ModelStreamInferResponse").FromString,
        )
        given = (("traceparent", traceparent(streamed)),)
        (answer,) = stream(iter([request.SerializeToString()]), metadata=given)
        assert answer.error_message == ""
    for trace in (called, streamed):
        check_tree(collector.wait_spans(trace, 7), two, f"{SERVICE}/ModelInfer")
    two.stop()
    assert {span.trace for span in collector.spans()} == {whole, called, streamed}


def test_a_batch_is_told_to_each_of_its_traces_and_a_death_to_those_it_hit(serve, collector):
    server = serve(configuration({"a": fake(1)}, tracing={"endpoint": collector.url}))
    server.kill("worker cpu:0", signal.SIGSTOP)
    first, second = new_trace(), new_trace()
    with ThreadPoolExecutor(4) as pool:

        def send(trace=""):
            given = {"traceparent": traceparent(trace)} if trace else {}
            return pool.submit(infer, server, "a", [[1, 2]], **given)

        asked = [send()]
        wait_for(lambda: open_jobs(server) == 1, "a job")
        asked.append(send(first))
        wait_for(lambda: open_jobs(server) == 2, "two jobs")
        server.kill("worker cpu:0")
        for answer in asked:
            np.testing.assert_array_equal(answer.result().values, [[2, 3]])
        spans = collector.wait_spans(first, 7)
        lost, replayed = [span for span in spans if span.name == "predict a"]
        assert (lost.is_error, replayed.is_error) == (True, False)
        assert lost.parent == replayed.parent
        assert lost.process["ensembled.role"] == "front-end"
        assert replayed.process["process.pid"] == server.child("worker cpu:0").pid

        wait_for(lambda: open_jobs(server) == 0, "that the worker has told of its jobs")
        server.kill("worker cpu:0", signal.SIGSTOP)
        asked = [send()]
        wait_for(lambda: open_jobs(server) == 1, "a job")
        asked.append(send())
        wait_for(lambda: open_jobs(server) == 2, "two jobs")
        third = new_trace()
        asked += [send(second), send(third)]
        wait_for(
            lambda: gauge(server, 'ensembled_member_pending_rows{member="a"}') == 2,
            "two rows that wait",
        )
        server.kill("worker cpu:0", signal.SIGCONT)
        for answer in asked:
            np.testing.assert_array_equal(answer.result().values, [[2, 3]])
    both = [
        [span for span in collector.wait_spans(trace, 6) if span.name == "predict a"][-1]
        for trace in (second, third)
    ]
    assert [span.about["ensembled.batch.rows"] for span in both] == [2, 2]
    assert both[0].about["ensembled.job"] == both[1].about["ensembled.job"]
    links = {span.id: span.links for span in both}
    assert sorted(links.values(), key=len) == [(), next((id,) for id in links if not links[id])]


def test_errors_are_told_and_what_is_there_at_the_end_is_sent(serve, collector):
    members = {"a": fake(1, fail="raise", fail_value=666.0)}
    tracing = {"endpoint": collector.url, "sample": 1}
    server = serve(configuration(members, tracing=tracing, log_format="json"))
    failed, refused = new_trace(), new_trace()
    assert infer(server, "a", [[666, 0]], traceparent=traceparent(failed)).status == 500
    assert infer(server, "a", [[1, 2, 3]], traceparent=traceparent(refused)).status == 400
    spans = {span.name: span for span in collector.wait_spans(failed, 3)}
    root = spans["POST /v2/models/{model}/infer"]
    assert root.is_error
    assert root.about["error.type"] == "MemberFailed"
    assert spans["predict a"].is_error
    root, _ = collector.wait_spans(refused, 2)
    assert not root.is_error  # the client's fault
    assert root.about["error.type"] == "InvalidRequest"
    for _ in range(5):  # chosen by lot, which is certain here
        assert infer(server, "a", [[1, 2]]).status == 200
    server.stop()
    spans = [span for span in collector.spans() if span.trace not in {failed, refused}]
    assert len({span.trace for span in spans}) == 5
    assert len(spans) == 30
    assert sum(span.parent == "" for span in spans) == 5
    told = map(json.loads, server.stderr.splitlines())
    assert [line["status"] for line in told if line.get("trace_id") == failed] == [500]


def test_a_collector_that_does_not_answer_harms_nobody(serve):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracing = {"endpoint": f"http://127.0.0.1:{silent.getsockname()[1]}", "sample": 1}
        server = serve(configuration({"a": fake(1)}, tracing=tracing))

        def check(answer, x):
            np.testing.assert_array_equal(answer.values, x + 1)

        with Load(server, "a", check, clients=3) as load:
            load.wait_answers(50)
            load.stop()
        np.testing.assert_array_equal(ask(server, "a", [[1, 2]]).values, [[2, 3]])
        assert server.stop() == 0
