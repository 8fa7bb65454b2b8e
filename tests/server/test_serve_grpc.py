"""The whole server over gRPC: every method, every status, limits, deadlines and streams."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import numpy as np
import psutil
import pytest
from ensembled_client.wire.messages import message_class
from grpc_calls import InferAnswer, connected, infer_request, is_full, refused, status
from serving import configuration, fake, running, wait_for

pytestmark = pytest.mark.process

POISON = -1234.0
LIMIT = 1 << 20
TINY = {"arena_bytes": (64 << 10) + 2000, "max_waiting_requests": 1}
X = np.array([[5, 6], [7, 8]], np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    members = {"a": fake(0), "b": fake(2), "picky": fake(4, fail="raise", fail_value=POISON)}
    config = configuration(members, max_request_bytes=LIMIT)
    config["ensembles"]["any"] = {"members": list(members), "quorum": 1}
    with running(config, tmp_path_factory.mktemp("grpc")) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server):
    with connected(server.grpc) as channel:
        yield channel


# -- everything but inference ------------------------------------------------------------------


def test_health(channel):
    assert channel.call("ServerLive").live
    assert channel.call("ServerReady").ready
    for name in ("all", "any", "a"):
        assert channel.call("ModelReady", name=name).ready
        assert channel.call("ModelReady", name=name, version="1").ready


def as_json(message):
    """A message as HTTP would say it."""
    if hasattr(message, "DESCRIPTOR"):
        return {field.name: as_json(value) for field, value in message.ListFields()}
    if isinstance(message, str | int | float):
        return message
    return [as_json(item) for item in message]


def test_metadata_is_that_of_http(server, channel):
    assert as_json(channel.call("ServerMetadata")) == server.client.get("/v2").json()
    for name in ("all", "a"):
        http = server.client.get(f"/v2/models/{name}").json()
        assert as_json(channel.call("ModelMetadata", name=name)) == http
        assert as_json(channel.call("ModelMetadata", name=name, version="1")) == http


def test_configuration_is_that_of_http(server, channel):
    http = server.client.get("/v2/models/all/config").json()
    config = channel.call("ModelConfig", name="all").config
    assert (config.name, config.platform) == ("all", "ensembled")
    assert config.max_batch_size == http["max_batch_size"]
    (tensor,) = config.input
    assert (tensor.name, tensor.data_type, list(tensor.dims)) == ("x", 11, [2])
    (tensor,) = config.output
    assert (tensor.name, tensor.data_type, list(tensor.dims)) == ("output", 11, [2])
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    assert parameters["max_request_bytes"] == str(LIMIT)
    assert parameters["members"] == "a,b,picky"
    assert parameters["rule"] == http["ensemble"]["rule"]
    assert parameters["quorum"] == "3"
    assert float(parameters["deadline_ms"]) == http["ensemble"]["deadline_ms"]
    assert "output.picky" in parameters["extra_outputs"].split(",")


def test_statistics_are_those_of_http(server, channel):
    def counts():
        (stats,) = channel.call("ModelStatistics", name="all").model_stats
        return stats, stats.inference_stats.success.count, stats.inference_stats.fail.count

    _, successes, failures = counts()
    channel.infer("all", X)
    refused(channel.infer, "all", [[1, 2, 3]])
    refused(channel.bytes_call, "ModelInfer", infer_request("all", X).SerializeToString()[:-1])
    stats, *after = counts()
    assert after == [successes + 1, failures + 1]
    assert stats.version == "1"
    assert stats.inference_stats.queue.count >= 1
    assert stats.inference_stats.success.ns > 0
    http = server.client.get("/v2/models/all/stats").json()["model_stats"][0]
    assert stats.inference_count == http["inference_count"]
    assert stats.execution_count == http["execution_count"]
    assert stats.last_inference == http["last_inference"]
    named = [stats.name for stats in channel.call("ModelStatistics").model_stats]
    assert named == ["all", "any", "a", "b", "picky"]


def test_the_repository_index(server, channel):
    http = server.client.http.post("/v2/repository/index").json()
    for ready in (False, True):
        index = channel.call("RepositoryIndex", ready=ready).models
        assert [model.name for model in index] == [model["name"] for model in http]
        assert {(model.version, model.state, model.reason) for model in index} == {
            ("1", "READY", "")
        }


@pytest.mark.parametrize("action", ["Load", "Unload"])
def test_models_are_neither_loaded_nor_unloaded_unless_the_operator_permits_it(channel, action):
    error = refused(channel.call, f"RepositoryModel{action}", model_name="all")
    assert status(error) == "PERMISSION_DENIED"
    assert "server.repository.control is none" in error.details()


@pytest.mark.parametrize(
    "name",
    [
        "SystemSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "TraceSetting",
        "LogSettings",
    ],
)
def test_what_is_not_supported_says_so(channel, name):
    error = refused(channel.bytes_call, name, b"")
    assert (status(error), error.details()) == (
        "UNIMPLEMENTED",
        f"{name} is not supported by this server",
    )


def test_a_method_that_nobody_knows(channel):
    assert status(refused(channel.bytes_call, "Nothing", b"")) == "UNIMPLEMENTED"


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata", "ModelConfig"])
def test_models_that_are_not_there(channel, method):
    for fields, says in (
        ({"name": "x"}, "Request for unknown model: 'x' is not found"),
        ({"name": "all", "version": "2"}, "'all' version 2"),
        ({}, "''"),
    ):
        error = refused(channel.call, method, **fields)
        assert status(error) == "NOT_FOUND"
        assert says in error.details()
    assert status(refused(channel.call, "ModelStatistics", name="x")) == "NOT_FOUND"
    assert status(refused(channel.infer, "x", X)) == "NOT_FOUND"


# -- inference ---------------------------------------------------------------------------------


@pytest.mark.parametrize("typed", [False, True])
def test_inference(channel, typed):
    answer = channel.infer("all", X, typed=typed, request_id="straße 7")
    np.testing.assert_array_equal(answer.values, X + 2)
    assert (answer.message.model_name, answer.message.model_version) == ("all", "1")
    assert answer.id == "straße 7"
    assert (answer.members, answer.degraded) == (["a", "b", "picky"], False)
    answer = channel.infer("b", X, typed=typed)
    np.testing.assert_array_equal(answer.values, X + 2)
    assert (answer.id, answer.members) == ("", ["b"])


def test_parameters_and_outputs(channel):
    answer = channel.infer("all", X, members="a,b", outputs=["output.b", "output", "member_mask"])
    assert [output.name for output in answer.message.outputs] == [
        "output.b",
        "output",
        "member_mask",
    ]
    np.testing.assert_array_equal(answer.output("output.b"), X + 2)
    np.testing.assert_array_equal(answer.output("output"), X + 1)
    np.testing.assert_array_equal(answer.output("member_mask"), [[True, True, False]] * 2)
    assert answer.members == ["a", "b"]


def test_classification(channel):
    request = infer_request("a", [[1, 5], [7, 3]])
    request.outputs.add(name="output").parameters["classification"].int64_param = 1
    answer = channel.method("ModelInfer")(request, timeout=60)
    (output,) = answer.outputs
    assert (output.datatype, list(output.shape)) == ("BYTES", [2, 1])
    assert answer.raw_output_contents[0] == b"\x0a\0\0\0005.000000:1\x0a\0\0\0007.000000:0"


def test_many_rows_and_many_calls_at_once(channel):
    def ask(number):
        x = np.full((1 + number % 7, 2), number, np.float32)
        np.testing.assert_array_equal(channel.infer("all", x).values, x + 2)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(100)))
    x = np.arange(100_000, dtype=np.float32).reshape(-1, 2)
    for typed in (False, True):
        np.testing.assert_array_equal(channel.infer("all", x, typed=typed).values, x + 2)


def test_a_quorum_answers_without_the_member_that_fails(channel):
    answer = channel.infer("any", [[POISON, 0]])
    np.testing.assert_array_equal(answer.values, [[POISON + 1, 1]])
    assert (answer.members, answer.degraded) == (["a", "b"], True)


def test_a_member_that_fails_is_named(channel):
    error = refused(channel.infer, "all", [[POISON, 0]])
    assert status(error) == "INTERNAL"
    assert "'picky'" in error.details()


def test_requests_that_make_no_sense(channel):
    wrong = infer_request("all", X)
    wrong.inputs[0].contents.fp32_contents.append(1)
    named = infer_request("all", X)
    named.inputs[0].name = "y"
    for request, says in (
        (wrong, "raw_input_contents as well"),
        (named, "takes the inputs"),
        (infer_request("all", [[1, 2, 3]]), "shape"),
        (infer_request("all", np.empty((0, 2))), "zero rows"),
        (infer_request("all", X, members="nobody"), "no member 'nobody'"),
        (infer_request("all", X, outputs=["entropie"]), "no output 'entropie'"),
        (infer_request("all", X, quorum=-1), "quorum"),
        (infer_request("all", X, quorums=1), "no parameter 'quorums', did you mean 'quorum'?"),
    ):
        error = refused(channel.method("ModelInfer"), request, timeout=60)
        assert status(error) == "INVALID_ARGUMENT"
        assert says in error.details()


@pytest.mark.parametrize("method", ["ModelInfer", "ModelMetadata", "ServerLive", "ModelStatistics"])
def test_bytes_that_are_no_message(channel, method):
    error = refused(channel.bytes_call, method, b"\xff\xff")
    assert status(error) == "INVALID_ARGUMENT"
    assert error.details() == f"the message is no {method}Request"


def test_a_long_text_is_cut(channel):
    """Clients refuse trailing metadata of more than some kilobytes."""
    for letter in "xä€":
        error = refused(channel.infer, letter * 20_000, X)
        assert status(error) == "NOT_FOUND"
        assert len(error.details()) < 2100


# -- limits ------------------------------------------------------------------------------------


def test_a_message_over_the_limit_is_refused_and_takes_no_memory(server, channel):
    channel.infer("all", X)
    front_end = psutil.Process(server.child("front-end").pid)
    before = front_end.memory_info().rss
    peak_rss, watching = before, threading.Event()

    def watch():
        nonlocal peak_rss
        while not watching.is_set():
            peak_rss = max(peak_rss, front_end.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        large = bytes(128 << 20)
        for compression in (None, grpc.Compression.Gzip, grpc.Compression.Deflate):
            error = refused(channel.bytes_call, "ModelInfer", large, compression=compression)
            assert status(error) == "RESOURCE_EXHAUSTED"
            assert "larger than max" in error.details()
            assert "retry-after" not in dict(error.trailing_metadata())
    finally:
        watching.set()
        watcher.join()
    assert peak_rss - before < len(large) / 4
    channel.infer("all", X)


def test_a_message_just_below_the_limit(channel):
    rows = (LIMIT - 100) // 8
    answer = channel.infer("a", np.ones((rows, 2)))
    assert answer.values.shape == (rows, 2)
    assert status(refused(channel.infer, "a", np.ones((LIMIT // 8, 2)))) == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("case", ["no such model", "a wrong shape", "too late"])
def test_refused_requests_let_go_of_their_tensors(serve, connect, case):
    server = serve(configuration({"a": fake(1)}))
    channel, front_end = connect(server), server.child("front-end")
    x = np.zeros((1 << 20, 3 if case == "a wrong shape" else 2), np.float32)
    model = "b" if case == "no such model" else "a"
    data = infer_request(model, x, timeout=1 if case == "too late" else 0).SerializeToString()
    refused(channel.bytes_call, "ModelInfer", data)
    before, times = front_end.memory_info().rss, 100
    for _ in range(times):
        refused(channel.bytes_call, "ModelInfer", data)
    assert front_end.memory_info().rss - before < times * len(data) / 2


def test_metadata_is_let_go_of(server, channel):
    front_end = server.child("front-end")
    metadata, times = (("x-large", "x" * 60_000),), 1000
    channel.bytes_call("ServerLive", b"", metadata=metadata)
    before = front_end.memory_info().rss
    for _ in range(times):
        channel.bytes_call("ServerLive", b"", metadata=metadata)
    assert front_end.memory_info().rss - before < times * 60_000 / 3


@pytest.mark.parametrize("algorithm", ["Gzip", "Deflate"])
def test_compressed_requests(channel, algorithm):
    algorithm = grpc.Compression[algorithm]
    data = infer_request("all", np.ones((1000, 2))).SerializeToString()
    answer = channel.bytes_call("ModelInfer", data, compression=algorithm)
    values = InferAnswer(message_class("ModelInferResponse").FromString(answer)).values
    assert (values == 3).all()


def test_a_full_arena_says_when_to_come_back(serve, connect):
    channel = connect(serve(configuration({"slow": fake(1, sleep_ms=30, batch_size=1)}, **TINY)))
    call = channel.method("ModelInfer")
    calls = [call.future(infer_request("slow", np.ones((500, 2))), timeout=60) for _ in range(2)]
    error = wait_for(lambda: is_full(channel), "a full house")
    assert int(dict(error.trailing_metadata())["retry-after"]) >= 1
    # A cancelled call gives its rows up: far more than could be predicted in the meantime.
    for call in calls:
        call.cancel()
    wait_for(lambda: not is_full(channel), "room")
    np.testing.assert_array_equal(channel.infer("slow", X).values, X + 1)


# -- deadlines ---------------------------------------------------------------------------------


def test_deadlines(serve, connect):
    members = {"a": fake(0), "b": fake(2), "slow": fake(7, sleep_ms=1500, batch_size=1)}
    config = configuration(members, ensemble={"quorum": 2}, on=2, where={"a": 0, "b": 0, "slow": 1})
    config["ensembles"]["strict"] = {"members": list(members)}
    channel = connect(serve(config))

    def answered(within_s, parameters):
        """An answer; None if it was there in time, but this busy machine has not read it."""
        try:
            return channel.infer("all", X, within_s=within_s, **parameters)
        except grpc.RpcError as error:
            if status(error) != "DEADLINE_EXCEEDED":
                raise
            return None

    # With a quorum, what is there in time is the answer, by whichever deadline is the earlier.
    for asked in (
        (1.0, {}),
        (60, {"timeout": 1_000_000}),
        (1.0, {"timeout": 60_000_000}),
    ):
        answer = wait_for(lambda asked=asked: answered(*asked), "an answer in time")
        np.testing.assert_array_equal(answer.values, X + 1)
        assert (answer.members, answer.degraded) == (["a", "b"], True)
    for within_s, parameters in ((0.5, {}), (60, {"timeout": 100_000})):
        error = refused(channel.infer, "strict", X, within_s=within_s, **parameters)
        assert status(error) == "DEADLINE_EXCEEDED"
    assert "quorum" in error.details()
    answer = channel.infer("strict", X)
    assert answer.members == list(members)


# -- streams -----------------------------------------------------------------------------------


def test_a_stream_answers_in_order_and_outlives_errors(channel):
    def requests():
        for number in range(300):
            if number % 10 == 3:
                yield infer_request("nobody", X, request_id=str(number))
            elif number % 10 == 5:
                yield infer_request("all", [[POISON, 1]], request_id=str(number))
            else:
                yield infer_request("all", X + number, request_id=str(number))

    answers = list(channel.stream(requests()))
    assert [answer.infer_response.id for answer in answers] == [str(n) for n in range(300)]
    for number, answer in enumerate(answers):
        if number % 10 == 3:
            assert answer.error_message == "Request for unknown model: 'nobody' is not found"
        elif number % 10 == 5:
            assert "'picky'" in answer.error_message
        else:
            assert answer.error_message == ""
            np.testing.assert_array_equal(InferAnswer(answer.infer_response).values, X + number + 2)


def test_a_stream_is_a_conversation(channel):
    """Each request is sent when the answer to the former is there."""
    go = threading.Semaphore(1)

    def requests():
        for number in range(5):
            go.acquire(timeout=60)
            yield infer_request("all", X + number)

    for number, answer in enumerate(channel.stream(requests())):
        np.testing.assert_array_equal(InferAnswer(answer.infer_response).values, X + number + 2)
        go.release()


def test_a_stream_survives_bytes_that_are_no_message(server):
    with connected(server.grpc) as channel:
        good = infer_request("all", X, request_id="7").SerializeToString()
        call = channel.raw.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        parts = [
            message_class("ModelStreamInferResponse").FromString(data)
            for data in call(iter([b"\xff", good, b"\xff\xff", good]), timeout=60)
        ]
    assert [part.infer_response.id for part in parts] == ["", "7", "", "7"]
    assert [part.error_message for part in parts] == [
        *("the message is no ModelInferRequest", "") * 2
    ]


def test_an_empty_stream(channel):
    assert list(channel.stream([])) == []


def test_a_cancelled_stream_frees_the_rows_of_all_that_it_had_read(serve, connect):
    server = serve(configuration({"slow": fake(1, sleep_ms=50, batch_size=1)}))
    channel = connect(server)
    requests = (infer_request("slow", X, request_id=str(number)) for number in range(100_000))
    call = channel.stream(requests)
    assert next(call).infer_response.id == "0"
    call.cancel()
    with suppress(grpc.RpcError):
        list(call)
    np.testing.assert_array_equal(channel.infer("slow", X).values, X + 1)
    (stats,) = channel.call("ModelStatistics", name="slow").model_stats
    assert stats.inference_count < 2 * 64  # rows of what a stream may have in work
