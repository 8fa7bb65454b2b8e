"""tritonclient.grpc: the synchronous client, and asynchronous calls with callbacks."""

import queue
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as api
from cases import BAD, BEYOND_GRPC_DEFAULT_ROWS, SLOW_ROWS, UNSUPPORTED, Bad, Call, tiled
from reference import MEMBERS, agree, of_text
from triton_tensors import inputs, refused
from tritonclient.utils import InferenceServerException

ROWS = slice(0, 7)


@pytest.fixture
def client(server):
    with api.InferenceServerClient(server.grpc) as made:
        yield made


# -- what there is ----------------------------------------------------------------------------


def test_health(client):
    assert client.is_server_live()
    assert client.is_server_ready()


@pytest.mark.parametrize("model", ["digits", *MEMBERS])
@pytest.mark.parametrize("version", ["", "1"])
def test_model_is_ready(client, model, version):
    assert client.is_model_ready(model, version)


@pytest.mark.parametrize(("model", "version"), [("nobody", ""), ("digits", "9")])
def test_readiness_of_an_unknown_model_is_an_error(client, model, version):
    with pytest.raises(InferenceServerException, match="unknown model") as caught:
        client.is_model_ready(model, version)
    assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_server_metadata(client):
    metadata = client.get_server_metadata()
    assert metadata.name == "ensembled"
    assert metadata.version
    assert {"binary_tensor_data", "classification", "statistics"} <= set(metadata.extensions)


@pytest.mark.parametrize("version", ["", "1"])
def test_model_metadata(client, version):
    assert client.get_model_metadata("digits", version, as_json=True) == {
        "name": "digits",
        "versions": ["1"],
        "platform": "ensembled",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": ["-1", "64"]}],
        "outputs": [{"name": "output", "datatype": "FP32", "shape": ["-1", "10"]}],
    }


def test_model_config(client):
    config = client.get_model_config("digits").config
    assert config.name == "digits"
    assert config.max_batch_size > 0
    ((x,), (output,)) = config.input, config.output
    assert (x.name, list(x.dims)) == ("x", [64])
    assert (output.name, list(output.dims)) == ("output", [10])
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert parameters["members"] == ",".join(MEMBERS)
    assert parameters["rule"] == "mean"
    assert parameters["quorum"] == "3"
    as_json = client.get_model_config("digits", "1", as_json=True)["config"]
    assert as_json["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": ["64"]}]


def test_repository_index(client):
    index = {model.name: model for model in client.get_model_repository_index().models}
    assert set(index) == {"digits", *MEMBERS}
    assert all(model.state == "READY" and model.version == "1" for model in index.values())


def test_unknown_model_has_neither_metadata_nor_config(client):
    for call in client.get_model_metadata, client.get_model_config:
        with pytest.raises(InferenceServerException, match="unknown model: 'nobody'") as caught:
            call("nobody")
        assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_statistics_count_exactly(client, digits):
    def count():
        (model,) = client.get_inference_statistics("digits").model_stats
        return model

    before = count()
    for _ in range(3):
        client.infer("digits", inputs(api, digits.x[ROWS]))
    after = count()
    assert after.version == "1"
    assert after.inference_count - before.inference_count == 21
    assert after.execution_count > before.execution_count
    assert after.last_inference >= before.last_inference
    for kind in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        now = getattr(after.inference_stats, kind)
        then = getattr(before.inference_stats, kind)
        assert now.count - then.count == 3
        assert now.ns >= then.ns
    assert after.inference_stats.fail == before.inference_stats.fail


def test_statistics_of_all_models(client):
    models = client.get_inference_statistics(as_json=True)["model_stats"]
    assert {model["name"] for model in models} == {"digits", *MEMBERS}


# -- predictions ------------------------------------------------------------------------------


def test_infer(client, digits):
    result = client.infer("digits", inputs(api, digits.x[ROWS]), model_version="1")
    agree(result.as_numpy("output"), digits.mean(ROWS))
    response = result.get_response()
    assert response.model_name == "digits"
    assert response.model_version == "1"
    assert response.parameters["members"].string_param == ",".join(MEMBERS)
    assert response.parameters["degraded"].bool_param is False
    assert [output.name for output in response.outputs] == ["output"]
    assert result.get_output("output").datatype == "FP32"
    assert result.as_numpy("nothing") is None


def test_members_are_models_and_the_ensemble_is_their_mean(client, digits):
    each = {}
    for name in MEMBERS:
        each[name] = client.infer(name, inputs(api, digits.x[ROWS])).as_numpy("output")
        agree(each[name], digits.probabilities[name][ROWS])
    combined = client.infer("digits", inputs(api, digits.x[ROWS])).as_numpy("output")
    agree(combined, np.mean(list(each.values()), 0))


def test_ensemble_reads_digits(client, digits):
    answers = client.infer("digits", inputs(api, digits.x)).as_numpy("output")
    assert (answers.argmax(1) == digits.y).mean() > 0.95
    agree(answers, digits.mean(slice(None)))


def test_every_other_output(client, digits):
    scores = digits.scores(ROWS)
    names = ["output", *scores, *(f"output.{name}" for name in MEMBERS), "member_mask"]
    result = client.infer(
        "digits",
        inputs(api, digits.x[ROWS]),
        outputs=[api.InferRequestedOutput(name) for name in names],
    )
    assert [output.name for output in result.get_response().outputs] == names
    agree(result.as_numpy("output"), digits.mean(ROWS))
    for name, expected in scores.items():
        agree(result.as_numpy(name), expected)
    for name in MEMBERS:
        agree(result.as_numpy(f"output.{name}"), digits.probabilities[name][ROWS])
    mask = result.as_numpy("member_mask")
    assert mask.dtype == bool
    assert mask.shape == (7, 5)
    assert mask.all()


def test_classification(client, digits):
    wanted = api.InferRequestedOutput("output", class_count=3)
    result = client.infer("digits", inputs(api, digits.x[ROWS]), outputs=[wanted])
    scores, classes = of_text(result.as_numpy("output"))
    expected = digits.mean(ROWS)
    best = np.argsort(-expected, axis=1)[:, :3]
    assert (classes == best).all()
    agree(scores, np.take_along_axis(expected, best, 1))


def test_request_id_comes_back(client, digits):
    result = client.infer("digits", inputs(api, digits.x[ROWS]), request_id="a-7")
    assert result.get_response().id == "a-7"


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(client, digits, algorithm):
    result = client.infer("digits", inputs(api, digits.x), compression_algorithm=algorithm)
    agree(result.as_numpy("output"), digits.mean(slice(None)))


def test_members_and_quorum(client, digits):
    result = client.infer(
        "digits",
        inputs(api, digits.x[ROWS]),
        parameters={"members": "deep,cnn", "quorum": 2},
    )
    agree(result.as_numpy("output"), digits.mean(ROWS, ["deep", "cnn"]))
    assert result.get_response().parameters["members"].string_param == "deep,cnn"
    assert result.get_response().parameters["degraded"].bool_param is False


@pytest.mark.parametrize("sequence", [5, "five"])
def test_priority_sequence_and_long_timeouts_change_nothing(client, digits, sequence):
    result = client.infer(
        "digits",
        inputs(api, digits.x[ROWS]),
        priority=1,
        timeout=60_000_000,
        client_timeout=60.0,
        sequence_id=sequence,
        sequence_start=True,
        sequence_end=True,
        headers={"x-trace": "1"},
    )
    agree(result.as_numpy("output"), digits.mean(ROWS))


def test_async_infer(client, digits):
    answers = queue.SimpleQueue()
    slices = {str(i): slice(i, i + 1 + i % 5) for i in range(100)}
    for name, rows in slices.items():
        client.async_infer(
            "digits",
            inputs(api, digits.x[rows]),
            lambda result, error: answers.put((result, error)),
            request_id=name,
        )
    seen = set()
    for _ in slices:
        result, error = answers.get(timeout=30)
        assert error is None
        name = result.get_response().id
        agree(result.as_numpy("output"), digits.mean(slices[name]))
        seen.add(name)
    assert seen == set(slices)


def test_a_cancelled_request_harms_nobody(client, digits):
    answers = queue.SimpleQueue()
    call = client.async_infer(
        "digits",
        inputs(api, tiled(digits.x, SLOW_ROWS)),
        lambda result, error: answers.put((result, error)),
    )
    call.cancel()
    result, error = answers.get(timeout=30)
    assert result is None
    assert error.status() == "StatusCode.CANCELLED"
    result = client.infer("digits", inputs(api, digits.x[ROWS]))
    agree(result.as_numpy("output"), digits.mean(ROWS))


def test_threads_share_a_client(client, digits):
    def ask(i):
        rows = slice(i, i + 1 + i % 5)
        result = client.infer("digits", inputs(api, digits.x[rows]))
        agree(result.as_numpy("output"), digits.mean(rows))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(100)))


def test_many_rows(client, digits):
    x = tiled(digits.x, BEYOND_GRPC_DEFAULT_ROWS)
    answer = client.infer("digits", inputs(api, x)).as_numpy("output")
    agree(answer, tiled(digits.mean(slice(None)), len(x)))


def test_keepalive(server, digits):
    options = api.KeepAliveOptions(keepalive_time_ms=10_000, keepalive_permit_without_calls=True)
    with api.InferenceServerClient(server.grpc, keepalive_options=options) as client:
        result = client.infer("digits", inputs(api, digits.x[ROWS]))
        agree(result.as_numpy("output"), digits.mean(ROWS))


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_refused(client, bad: Bad):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(**refused(api, bad))
    assert caught.value.status() == f"StatusCode.{bad.grpc}"
    assert bad.text in caught.value.message()


def test_refused_asynchronously(client):
    answers = queue.SimpleQueue()
    client.async_infer(
        callback=lambda result, error: answers.put((result, error)), **refused(api, BAD[0])
    )
    result, error = answers.get(timeout=30)
    assert result is None
    assert error.status() == "StatusCode.NOT_FOUND"
    assert "unknown model" in error.message()


def test_no_input(client):
    with pytest.raises(InferenceServerException) as caught:
        client.infer("digits", [])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert "x" in caught.value.message()


def test_input_without_data(client):
    with pytest.raises(InferenceServerException) as caught:
        client.infer("digits", [api.InferInput("x", [1, 64], "FP32")])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert "x" in caught.value.message()


def test_deadline(client, digits):
    with pytest.raises(InferenceServerException) as caught:
        client.infer("digits", inputs(api, tiled(digits.x, SLOW_ROWS)), timeout=1)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    result = client.infer("digits", inputs(api, digits.x[ROWS]))
    agree(result.as_numpy("output"), digits.mean(ROWS))


def test_deadline_of_the_call(client, digits):
    with pytest.raises(InferenceServerException) as caught:
        client.infer("digits", inputs(api, tiled(digits.x, SLOW_ROWS)), client_timeout=0.001)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    result = client.infer("digits", inputs(api, digits.x[ROWS]))
    agree(result.as_numpy("output"), digits.mean(ROWS))


def test_too_large(client):
    config = client.get_model_config("digits").config
    limit_bytes = int(config.parameters["max_request_bytes"].string_value)
    x = np.zeros((limit_bytes // 256 + 1, 64), np.float32)
    with pytest.raises(InferenceServerException) as caught:
        client.infer("digits", inputs(api, x))
    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


def test_shared_memory_input(client):
    there = api.InferInput("x", [1, 64], "FP32")
    there.set_shared_memory("region", 256)
    with pytest.raises(InferenceServerException) as caught:
        client.infer("digits", [there])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert "shared memory is not supported" in caught.value.message()


def test_shared_memory_output(client, digits):
    there = api.InferRequestedOutput("output")
    there.set_shared_memory("region", 280)
    with pytest.raises(InferenceServerException) as caught:
        client.infer("digits", inputs(api, digits.x[ROWS]), outputs=[there])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert "shared memory is not supported" in caught.value.message()


@pytest.mark.parametrize("call", UNSUPPORTED, ids=str)
def test_not_supported(client, call: Call):
    with pytest.raises(InferenceServerException) as caught:
        getattr(client, call.method)(*call.arguments)
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    assert "not supported" in caught.value.message()
