"""An ensemble of transformers that takes strings: answers equal the pipelines', in every way."""

import asyncio
import json

import numpy as np
import pytest
import tiny_transformers as tiny
import transformers
from ensembled_client import AsyncEnsembleClient, EnsembleClient
from ensembled_client.wire import encode_array
from ensembled_client.wire.messages import message_class
from grpc_calls import InferAnswer, connected
from serving import configuration, running
from typer.testing import CliRunner

from server.cli.main import app

pytestmark = pytest.mark.process

MEMBERS = ("first", "second")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(MEMBERS):
        tiny.make_text_model(directory / name, seed=seed)
    tiny.make_text_model(directory / "tags", task="TokenClassification")
    return directory


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    members = {
        name: {"model": {"transformers": str(models / name)}, "batch_size": 4} for name in MEMBERS
    }
    config = configuration(members)
    config["members"]["tags"] = {
        "model": {"transformers": str(models / "tags"), "takes": "tokens"},
        "inputs": {"input_ids": {"pad": 0}, "attention_mask": {"pad": 0}},
        "batch_size": 4,
    }
    config["allocation"] = {
        "members": list(config["members"]),
        "devices": ["cpu:0"],
        "matrix": [[4, 4, 4]],
    }
    with running(config, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def wanted(models):
    """The mean of the pipelines' probabilities, [texts, labels]."""
    members = []
    for name in MEMBERS:
        pipeline = transformers.pipeline("text-classification", str(models / name), top_k=None)
        rows = pipeline(tiny.TEXTS, truncation=True)
        scores = [{one["label"]: one["score"] for one in row} for row in rows]
        members.append([[row[label] for label in tiny.LABELS] for row in scores])
    return np.mean(members, axis=0)


def close(values, wanted):
    np.testing.assert_allclose(values, wanted, atol=2e-6)


def test_json(server, wanted):
    tensor = {"name": "text", "shape": [len(tiny.TEXTS)], "datatype": "BYTES", "data": tiny.TEXTS}
    body = json.dumps({"inputs": [tensor]}).encode()
    close(server.client.post("/v2/models/all/infer", body).values, wanted)


def test_binary(server, wanted):
    data = encode_array(np.array([text.encode() for text in tiny.TEXTS], object))
    tensor = {"name": "text", "shape": [len(tiny.TEXTS)], "datatype": "BYTES"}
    tensor["parameters"] = {"binary_data_size": len(data)}
    document = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    head = json.dumps(document).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    close(server.client.post("/v2/models/all/infer", head + data, headers).values, wanted)


def test_grpc(server, wanted):
    request = message_class("ModelInferRequest")(model_name="all")
    request.inputs.add(name="text", datatype="BYTES", shape=[len(tiny.TEXTS)])
    request.raw_input_contents.append(
        bytes(encode_array(np.array([text.encode() for text in tiny.TEXTS], object)))
    )
    with connected(server.grpc) as channel:
        close(InferAnswer(channel.method("ModelInfer")(request)).values, wanted)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_clients(server, wanted, scheme):
    url = server.url if scheme == "http" else f"grpc://{server.grpc}"
    with EnsembleClient(url) as client:
        answer = client.predict("all", tiny.TEXTS)
        close(answer.values, wanted)
        assert answer.labels == tuple(tiny.LABELS[best] for best in wanted.argmax(1))
        close(client.predict("all", tiny.TEXTS[0]).values, wanted[:1])

    async def ask():
        async with AsyncEnsembleClient(url) as client:
            return await client.predict("all", tiny.TEXTS)

    close(asyncio.run(ask()).values, wanted)


def test_predict_on_the_command_line(server, wanted):
    data = json.dumps(tiny.TEXTS)
    result = CliRunner().invoke(
        app, ["predict", "all", "--data", data, "--json", "--url", server.url]
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    close(np.array([row["values"] for row in rows]), wanted)
    assert rows[0]["input"] == tiny.TEXTS[0], "texts name their rows"


def test_what_is_no_text_is_refused_alone(server, wanted):
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [3]}
    body = json.dumps({"inputs": [tensor]}).encode()
    assert server.client.post("/v2/models/all/infer", body).status == 400
    with EnsembleClient(server.url) as client:
        with pytest.raises(Exception, match="not UTF-8|utf-8"):
            client.predict("all", [b"\xff"])
        close(client.predict("all", tiny.TEXTS).values, wanted)


def test_every_token_of_rows_of_any_length_gets_a_class(server, models):
    network = transformers.AutoModelForTokenClassification.from_pretrained(models / "tags").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(models / "tags")
    with EnsembleClient(server.url) as client:
        for text in tiny.TEXTS:
            tokens = tokenizer([text], truncation=True, return_tensors="pt")
            given = {name: tokens[name].numpy() for name in ("input_ids", "attention_mask")}
            values = client.predict("tags", given).values[:, : tokens.input_ids.shape[1]]
            logits = network(
                input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
            ).logits
            close(values, logits.softmax(-1).detach().numpy())
