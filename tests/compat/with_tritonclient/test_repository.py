"""The model repository, as tritonclient calls it over either protocol, in all four clients."""

import json
import urllib.request

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from triton_tensors import inputs
from tritonclient.utils import InferenceServerException

X = np.array([[1, 2], [3, 4]], np.float32)
SPARE = ("spare", "1")
ALL = {("plus", "1"), ("minus", "1"), ("both", "1"), SPARE}
FILES = "file:1/model.onnx"


@pytest.fixture(params=["http", "grpc"])
def api(request):
    return {"http": tritonclient.http, "grpc": tritonclient.grpc}[request.param]


@pytest.fixture
def client(api, changeable):
    address = changeable.http if api is tritonclient.http else changeable.grpc
    with api.InferenceServerClient(address) as made:
        yield made
    reload(changeable)


def reload(server):
    """Have the server serve its configuration, as the next test expects it."""
    request = urllib.request.Request(f"{server.url}/v2/repository/reload", b"")
    with urllib.request.urlopen(request) as response:
        assert response.status == 200


def states(client):
    """The state of each version of each model."""
    index = client.get_model_repository_index()
    if isinstance(index, list):
        return {(one["name"], one["version"]): one["state"] for one in index}
    return {(one.name, one.version): one.state for one in index.models}


def added(api, client, model="plus", version=""):
    """What a model adds to its input."""
    answer = client.infer(model, inputs(api, X), model_version=version)
    (number,) = {*(answer.as_numpy("output") - X).ravel().tolist()}
    return number


def test_unload_and_load(api, client):
    assert {key for key, state in states(client).items() if state == "READY"} == ALL
    assert added(api, client, "both") == 0
    client.unload_model("both")
    assert states(client)["both", "1"] == "UNAVAILABLE"
    with pytest.raises(InferenceServerException, match="unknown model: 'both'"):
        added(api, client, "both")
    assert added(api, client) == 1
    client.load_model("both")
    assert states(client)["both", "1"] == "READY"
    assert added(api, client, "both") == 0


def test_unload_with_dependents(client):
    with pytest.raises(InferenceServerException, match="both"):
        client.unload_model("minus")  # which an ensemble needs
    client.unload_model("both", unload_dependents=True)
    assert {key for key, state in states(client).items() if state == "READY"} == {SPARE}
    client.load_model("both")
    assert {key for key, state in states(client).items() if state == "READY"} == ALL


def test_another_version_by_a_configuration(api, client):
    policy = {"version_policy": {"specific": {"versions": [1, 2]}}}
    client.load_model("plus", config=json.dumps({"name": "plus", **policy}))
    assert (added(api, client), added(api, client, version="1")) == (2, 1)
    client.load_model("plus")
    assert added(api, client) == 1


def test_files_and_a_configuration(api, client, changeable):
    config = json.dumps({"name": "plus", "backend": "onnxruntime", "max_batch_size": 8})
    client.load_model("plus", config=config, files={FILES: changeable.ten})
    assert (added(api, client), added(api, client, "both")) == (10, 4.5)
    client.load_model("plus")
    assert added(api, client) == 1


def test_a_model_that_was_not_there(api, client, changeable):
    with pytest.raises(InferenceServerException, match="ten"):
        client.load_model("ten")
    client.load_model("ten", config="{}", files={FILES: changeable.ten})
    assert added(api, client, "ten") == 10
    client.unload_model("ten")
    assert ("ten", "1") not in states(client)


def test_what_is_refused_changes_nothing(api, client):
    for config, files, text in (
        ("{}", {FILES: b"no network"}, "plus"),
        ("{", None, "not JSON"),
        ('{"sequence_batching": {}}', None, "sequence_batching"),
        ("{}", {"file:../model.onnx": b""}, "file:VERSION/NAME"),
    ):
        with pytest.raises(InferenceServerException, match=text):
            client.load_model("plus", config=config, files=files)
    assert added(api, client) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_the_asynchronous_clients(changeable, protocol):
    api = {"http": tritonclient.http.aio, "grpc": tritonclient.grpc.aio}[protocol]
    address = {"http": changeable.http, "grpc": changeable.grpc}[protocol]
    async with api.InferenceServerClient(address) as client:
        await client.unload_model("both", unload_dependents=True)
        await client.load_model("plus", config="{}", files={FILES: changeable.ten})
        await client.load_model("plus")
        await client.load_model("both")
        assert await client.is_model_ready("both")
    reload(changeable)


def test_servers_of_the_default_configuration_permit_it_not(api, server):
    address = server.http if api is tritonclient.http else server.grpc
    with api.InferenceServerClient(address) as client:
        for change in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException, match="server.repository.control") as no:
                change("digits")
            assert no.value.status() in {"403", "StatusCode.PERMISSION_DENIED"}
