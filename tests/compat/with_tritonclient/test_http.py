"""tritonclient.http: the synchronous client (gevent), over binary tensors and JSON."""

import numpy as np
import pytest
import tritonclient.http as api
from cases import BAD, BEYOND_GRPC_DEFAULT_ROWS, SLOW_ROWS, UNSUPPORTED, Bad, Call, tiled
from reference import MEMBERS, agree, of_text
from triton_tensors import inputs, refused
from tritonclient.utils import InferenceServerException

ROWS = slice(0, 7)


@pytest.fixture
def client(server):
    with api.InferenceServerClient(server.http, concurrency=8) as made:
        yield made


# -- what there is ----------------------------------------------------------------------------


def test_health(client):
    assert client.is_server_live()
    assert client.is_server_ready()


@pytest.mark.parametrize("model", ["digits", *MEMBERS])
@pytest.mark.parametrize("version", ["", "1"])
def test_model_is_ready(client, model, version):
    assert client.is_model_ready(model, version)


def test_unknown_models_and_versions_are_not_ready(client):
    assert not client.is_model_ready("nobody")
    assert not client.is_model_ready("digits", "9")


def test_server_metadata(client):
    metadata = client.get_server_metadata()
    assert metadata["name"] == "ensembled"
    assert metadata["version"]
    assert {"binary_tensor_data", "classification", "statistics"} <= set(metadata["extensions"])


@pytest.mark.parametrize("version", ["", "1"])
def test_model_metadata(client, version):
    assert client.get_model_metadata("digits", version) == {
        "name": "digits",
        "versions": ["1"],
        "platform": "ensembled",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1, 10]}],
    }


def test_model_config(client):
    config = client.get_model_config("digits")
    assert config["name"] == "digits"
    assert config["max_batch_size"] > 0
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [64]}]
    assert config["output"] == [{"name": "output", "data_type": "TYPE_FP32", "dims": [10]}]
    assert config["ensemble"]["members"] == list(MEMBERS)
    assert config["ensemble"]["quorum"] == 3
    assert client.get_model_config("digits", "1") == config


def test_repository_index(client):
    index = {model["name"]: model for model in client.get_model_repository_index()}
    assert set(index) == {"digits", *MEMBERS}
    assert all(model["state"] == "READY" and model["version"] == "1" for model in index.values())


def test_unknown_model_has_neither_metadata_nor_config(client):
    for call in client.get_model_metadata, client.get_model_config:
        with pytest.raises(InferenceServerException, match="unknown model: 'nobody'") as caught:
            call("nobody")
        assert caught.value.status() == "404"


def test_statistics_count_exactly(client, digits):
    def count():
        (model,) = client.get_inference_statistics("digits")["model_stats"]
        return model

    before = count()
    for _ in range(3):
        client.infer("digits", inputs(api, digits.x[ROWS]))
    after = count()
    assert after["version"] == "1"
    assert after["inference_count"] - before["inference_count"] == 21
    assert after["execution_count"] > before["execution_count"]
    assert after["last_inference"] >= before["last_inference"]
    for kind in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        now, then = after["inference_stats"][kind], before["inference_stats"][kind]
        assert now["count"] - then["count"] == 3
        assert now["ns"] >= then["ns"]
    assert after["inference_stats"]["fail"] == before["inference_stats"]["fail"]


def test_statistics_of_all_models(client):
    models = client.get_inference_statistics()["model_stats"]
    assert {model["name"] for model in models} == {"digits", *MEMBERS}


# -- predictions ------------------------------------------------------------------------------


@pytest.mark.parametrize("binary_in", [True, False], ids=["binary-in", "json-in"])
@pytest.mark.parametrize("binary_out", [True, False], ids=["binary-out", "json-out"])
def test_infer(client, digits, binary_in, binary_out):
    result = client.infer(
        "digits",
        inputs(api, digits.x[ROWS], binary_data=binary_in),
        outputs=[api.InferRequestedOutput("output", binary_data=binary_out)],
    )
    agree(result.as_numpy("output"), digits.mean(ROWS))


def test_infer_without_naming_outputs(client, digits):
    result = client.infer("digits", inputs(api, digits.x[ROWS]), model_version="1")
    agree(result.as_numpy("output"), digits.mean(ROWS))
    response = result.get_response()
    assert response["model_name"] == "digits"
    assert response["model_version"] == "1"
    assert response["parameters"] == {
        "members": ",".join(MEMBERS),
        "degraded": False,
        "generation": 1,
    }
    assert [output["name"] for output in response["outputs"]] == ["output"]
    assert result.get_output("output")["datatype"] == "FP32"
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


@pytest.mark.parametrize("binary", [True, False])
def test_every_other_output(client, digits, binary):
    scores = digits.scores(ROWS)
    names = ["output", *scores, *(f"output.{name}" for name in MEMBERS), "member_mask"]
    result = client.infer(
        "digits",
        inputs(api, digits.x[ROWS]),
        outputs=[api.InferRequestedOutput(name, binary_data=binary) for name in names],
    )
    assert [output["name"] for output in result.get_response()["outputs"]] == names
    agree(result.as_numpy("output"), digits.mean(ROWS))
    for name, expected in scores.items():
        agree(result.as_numpy(name), expected)
    for name in MEMBERS:
        agree(result.as_numpy(f"output.{name}"), digits.probabilities[name][ROWS])
    mask = result.as_numpy("member_mask")
    assert mask.dtype == bool
    assert mask.shape == (7, 5)
    assert mask.all()


@pytest.mark.parametrize("binary", [True, False])
def test_classification(client, digits, binary):
    wanted = api.InferRequestedOutput("output", binary_data=binary, class_count=3)
    result = client.infer("digits", inputs(api, digits.x[ROWS]), outputs=[wanted])
    scores, classes = of_text(result.as_numpy("output"))
    expected = digits.mean(ROWS)
    best = np.argsort(-expected, axis=1)[:, :3]
    assert (classes == best).all()
    agree(scores, np.take_along_axis(expected, best, 1))


def test_request_id_comes_back(client, digits):
    result = client.infer("digits", inputs(api, digits.x[ROWS]), request_id="a-7")
    assert result.get_response()["id"] == "a-7"


@pytest.mark.parametrize("answer", [None, "gzip", "deflate"])
@pytest.mark.parametrize("request_", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_compression(client, digits, request_, answer, binary):
    result = client.infer(
        "digits",
        inputs(api, digits.x, binary_data=binary),
        outputs=[api.InferRequestedOutput("output", binary_data=binary)],
        request_compression_algorithm=request_,
        response_compression_algorithm=answer,
    )
    agree(result.as_numpy("output"), digits.mean(slice(None)))


def test_members_and_quorum(client, digits):
    result = client.infer(
        "digits",
        inputs(api, digits.x[ROWS]),
        parameters={"members": "deep,cnn", "quorum": 2},
    )
    agree(result.as_numpy("output"), digits.mean(ROWS, ["deep", "cnn"]))
    assert result.get_response()["parameters"] == {
        "members": "deep,cnn",
        "degraded": False,
        "generation": 1,
    }


def test_priority_sequence_and_a_long_timeout_change_nothing(client, digits):
    result = client.infer(
        "digits",
        inputs(api, digits.x[ROWS]),
        priority=1,
        timeout=60_000_000,
        sequence_id=5,
        sequence_start=True,
        sequence_end=True,
    )
    agree(result.as_numpy("output"), digits.mean(ROWS))


def test_headers_and_query_parameters_change_nothing(client, digits):
    result = client.infer(
        "digits",
        inputs(api, digits.x[ROWS]),
        headers={"X-Trace": "1"},
        query_params={"test": [1, 2]},
    )
    agree(result.as_numpy("output"), digits.mean(ROWS))


def test_async_infer(client, digits):
    slices = [slice(i, i + 1 + i % 5) for i in range(40)]
    waiting = [client.async_infer("digits", inputs(api, digits.x[rows])) for rows in slices]
    for request, rows in zip(waiting, slices, strict=True):
        agree(request.get_result().as_numpy("output"), digits.mean(rows))


def test_many_rows(client, digits):
    x = tiled(digits.x, BEYOND_GRPC_DEFAULT_ROWS)
    answer = client.infer("digits", inputs(api, x)).as_numpy("output")
    agree(answer, tiled(digits.mean(slice(None)), len(x)))


def test_body_made_and_response_read_by_hand(client, digits):
    body, header_bytes = client.generate_request_body(inputs(api, digits.x[ROWS]))
    response = client._post(
        "v2/models/digits/infer",
        body,
        {"Inference-Header-Content-Length": header_bytes},
        None,
    )
    header_bytes = int(response.get("Inference-Header-Content-Length"))
    result = client.parse_response_body(response.read(), header_length=header_bytes)
    agree(result.as_numpy("output"), digits.mean(ROWS))


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_refused(client, bad: Bad):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(**refused(api, bad))
    assert caught.value.status() == str(bad.http)
    assert bad.text in caught.value.message()


def test_refused_asynchronously(client):
    waiting = client.async_infer(**refused(api, BAD[0]))
    with pytest.raises(InferenceServerException, match="unknown model"):
        waiting.get_result()


def test_no_input(client):
    with pytest.raises(InferenceServerException) as caught:
        client.infer("digits", [])
    assert caught.value.status() == "400"
    assert "x" in caught.value.message()


def test_deadline(client, digits):
    x = tiled(digits.x, SLOW_ROWS)
    with pytest.raises(InferenceServerException) as caught:
        client.infer("digits", inputs(api, x), timeout=1)
    assert caught.value.status() == "504"
    agree(client.infer("digits", inputs(api, digits.x[ROWS])).as_numpy("output"), digits.mean(ROWS))


def test_too_large(client):
    config = client.get_model_config("digits")
    limit_bytes = int(config["parameters"]["max_request_bytes"]["string_value"])
    x = np.zeros((limit_bytes // 256 + 1, 64), np.float32)
    with pytest.raises(InferenceServerException) as caught:
        client.infer("digits", inputs(api, x))
    assert caught.value.status() == "413"
    assert str(limit_bytes) in caught.value.message()


def test_shared_memory_input(client):
    there = api.InferInput("x", [1, 64], "FP32").set_shared_memory("region", 256)
    with pytest.raises(InferenceServerException) as caught:
        client.infer("digits", [there])
    assert caught.value.status() == "400"
    assert "shared memory is not supported" in caught.value.message()


def test_shared_memory_output(client, digits):
    there = api.InferRequestedOutput("output")
    there.set_shared_memory("region", 280)
    with pytest.raises(InferenceServerException) as caught:
        client.infer("digits", inputs(api, digits.x[ROWS]), outputs=[there])
    assert caught.value.status() == "400"
    assert "shared memory is not supported" in caught.value.message()


@pytest.mark.parametrize("call", UNSUPPORTED, ids=str)
def test_not_supported(client, call: Call):
    with pytest.raises(InferenceServerException) as caught:
        getattr(client, call.method)(*call.arguments)
    assert caught.value.status() == "400"
    assert "not supported" in caught.value.message()
