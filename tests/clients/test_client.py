"""Both clients over both protocols, against stub servers."""

import asyncio
import json
import subprocess
import sys
from importlib.metadata import requires

import ensembled_client
import numpy as np
import pytest
from ensembled_client import (
    AsyncEnsembleClient,
    DeadlineExceeded,
    EnsembleClient,
    EnsembledClientError,
    ModelState,
    Overloaded,
    RequestRejected,
    RequestTooLarge,
    ServerFailure,
    Unavailable,
    UnknownModel,
)
from stub_servers import Failed

SCORES = ["entropy", "expected_entropy", "mutual_information", "variance"]
SCORES += ["vote_share", "disagreement"]


def test_the_export_list_is_true():
    assert sorted(ensembled_client.__all__) == ensembled_client.__all__
    assert all(hasattr(ensembled_client, name) for name in ensembled_client.__all__)


def test_predict(model, client):
    prediction = client.predict("duo", [[1, 2], [3, 4]], timeout=1.5)
    assert prediction.values.tolist() == [[2, 3], [4, 5]]
    assert np.asarray(prediction).shape == (2, 2)
    assert len(prediction) == 2
    assert (prediction.members, prediction.degraded) == (("a", "b"), False)
    assert prediction.labels == ("dog", "dog")
    assert prediction.top(1) == [[("dog", 3)], [("dog", 5)]]
    assert (prediction.uncertainty, prediction.member_values) == ({}, {})
    assert prediction.member_mask is None
    ((parameters, tensors, outputs),) = model.requests
    assert list(parameters) == ["timeout"]
    assert 0 < parameters["timeout"] <= 1_500_000
    assert tensors == {"x": ((2, 2), np.array([1, 2, 3, 4], "<f4").tobytes())}
    assert outputs == {"output": {}}


def test_timing_is_true_to_itself(client):
    timing = client.predict("duo", [[1, 2]]).timing
    assert float(timing) == timing.total_s >= timing.encode_s + timing.exchange_s > 0
    assert (timing.pieces, timing.tries) == (1, 1)


def test_a_row_alone_and_no_timeout(model, client):
    assert client.predict("duo", np.ones(2)).values.tolist() == [[2, 2]]
    assert model.requests[0][0] == {}


def test_members_quorum_and_a_degraded_answer(model, client):
    model.used = "b"
    prediction = client.predict("duo", [[1, 2]], members=["b", "a"], quorum=1)
    assert (prediction.members, prediction.degraded) == (("b",), True)
    assert model.requests[0][0] == {"members": "b,a", "quorum": 1}
    client.predict("duo", [[1, 2]], members="a")
    assert model.requests[1][0] == {"members": "a"}


@pytest.mark.parametrize("extra", [None, [*SCORES, "output.a", "output.b", "member_mask"]])
def test_uncertainty(model, client, extra):
    if extra is not None:
        model.config["extra_outputs"] = [
            {"name": name, "datatype": "FP32", "shape": [-1]} for name in extra
        ]
    prediction = client.predict("duo", [[1, 2], [3, 4]], uncertainty=True)
    assert list(prediction.uncertainty) == SCORES
    assert prediction.uncertainty["entropy"].tolist() == [2, 4]
    assert list(model.requests[0][2]) == ["output", *SCORES]
    assert list(client.predict("duo", [[1, 2]], uncertainty=["variance"]).uncertainty) == [
        "variance"
    ]


def test_uncertainty_that_there_is_not(model, client):
    model.config["extra_outputs"] = []
    with pytest.raises(RequestRejected, match="no uncertainty"):
        client.predict("duo", [[1, 2]], uncertainty=True)
    with pytest.raises(RequestRejected, match="'entropie'"):
        client.predict("duo", [[1, 2]], uncertainty="entropie")


def test_the_parts_of_the_variance(model, client):
    model.config["extra_outputs"] = [
        {"name": name, "datatype": "FP32", "shape": [-1]}
        for name in ("aleatoric", "epistemic", "variance", "interval")
    ]
    scores = client.predict("duo", [[1, 2]], uncertainty=True).uncertainty
    assert sorted(scores) == ["aleatoric", "epistemic", "variance"]


def test_further_outputs_with_their_parameters(model, client):
    options = {"coverage": 0.9, "quantiles": (0.1, 0.5)}
    prediction = client.predict("duo", [[1, 2]], outputs=["entropy", "variance"], **options)
    assert list(prediction.outputs) == ["output", "entropy", "variance"]
    assert prediction.outputs["entropy"].tolist() == [2]
    assert model.requests[0][0] == {"coverage": 0.9, "quantiles": "0.1,0.5"}
    assert client.predict("duo", [[1, 2]], outputs="entropy").outputs["entropy"].tolist() == [2]


@pytest.mark.parametrize("options", [{"coverage": 0}, {"coverage": 1.5}, {"quantiles": [0.5, 1]}])
def test_levels_that_are_none(client, options):
    with pytest.raises(RequestRejected, match="above 0 and below 1"):
        client.predict("duo", [[1, 2]], **options)


def test_the_members_own_predictions(model, client):
    prediction = client.predict("duo", [[1, 2]], member_outputs=True)
    assert list(prediction.member_values) == ["a", "b"]
    assert prediction.member_values["a"].tolist() == [[1, 2]]
    assert prediction.member_values["b"].tolist() == [[3, 4]]
    assert prediction.member_mask.tolist() == [[True, True]]
    client.predict("duo", [[1, 2]], member_outputs=True, members=["b"])
    assert list(model.requests[1][2]) == ["output", "output.b", "member_mask"]


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"quorum": 0},
        {"max_rows": 0},
        {"members": []},
    ],
)
def test_options_that_make_no_sense(model, client, options):
    with pytest.raises(RequestRejected, match=next(iter(options))):
        client.predict("duo", [[1, 2]], **options)
    assert model.requests == []


def test_classify(model, client):
    assert client.classify("duo", [[1, 2]], top=2) == [[("tabby: a cat", 0.75), ("0", 0.25)]]
    assert model.requests[0][2] == {"output": {"classification": 2}}
    with pytest.raises(RequestRejected, match="top is 1 or more"):
        client.classify("duo", [[1, 2]], top=0)


def test_a_model_is_looked_up_once_until_a_request_is_rejected(model, client):
    for _ in range(2):
        client.predict("duo", [[1, 2]])
    assert len(model.seen) == 4  # metadata, configuration, two requests
    with pytest.raises(RequestRejected, match=r"not \[1, 3\]"):
        client.predict("duo", [[1, 2, 3]])
    client.predict("duo", [[1, 2]])
    assert len(model.seen) == 7
    model.failures = [Failed(400)]
    with pytest.raises(RequestRejected, match="words"):
        client.predict("duo", [[1, 2]])
    client.predict("duo", [[1, 2]])
    assert len(model.seen) == 11


def test_a_server_without_configurations(model, client):
    model.config = None
    prediction = client.predict("duo", [[1, 2]])
    assert prediction.labels is None
    assert prediction.top() == [[("1", 3), ("0", 2)]]
    with pytest.raises(RequestRejected, match="not an ensemble"):
        client.predict("duo", [[1, 2]], member_outputs=True)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, RequestRejected),
        (404, UnknownModel),
        (413, RequestTooLarge),
        (429, Overloaded),
        (500, ServerFailure),
        (503, Unavailable),
        (504, DeadlineExceeded),
    ],
)
def test_errors_carry_the_servers_text(model, make, url, status, error):
    client = make(url, retries=0)
    model.failures = [Failed(status, retry_after=2 if status in {429, 503} else None)]
    with pytest.raises(EnsembledClientError, match="^in so many words$") as caught:
        client.predict("duo", [[1, 2]])
    assert type(caught.value) is error
    assert caught.value.status == status
    assert caught.value.safe_to_retry is (status in {429, 503})
    assert caught.value.retry_after == (2 if status in {429, 503} else None)


def test_unknown_models(client):
    for ask in (client.metadata, client.statistics, client.is_ready):
        with pytest.raises(UnknownModel):
            ask("nobody")


def test_questions(model, client):
    assert client.is_live()
    assert client.is_ready()
    assert client.is_ready("duo")
    assert client.server_metadata()["name"] == "stub"
    assert client.metadata("duo") == model.metadata
    model.limit_bytes = 1000
    assert client.config("duo")["parameters"]["max_request_bytes"] == {"string_value": "1000"}
    client.predict("duo", [[1, 2]])
    (statistics,) = client.statistics()
    assert (statistics["name"], statistics["inference_count"]) == ("duo", 1)
    assert client.statistics("duo") == [statistics]
    models = client.models()
    assert models == [
        ModelState("duo", "READY", "1"),
        ModelState("a", "UNAVAILABLE", "1", "starting"),
    ]
    assert [one.is_ready for one in models] == [True, False]


def test_versions(model, client):
    assert client.predict("duo", [[1, 2]], version="7").values.tolist() == [[2, 3]]
    assert model.versions == ["7"] * 3  # metadata, configuration, request
    client.predict("duo", [[1, 2]])
    assert model.versions == ["7"] * 3
    client.predict("duo", [[1, 2]], version="7")
    client.metadata("duo", "2")
    client.config("duo", "3")
    client.statistics("duo", "4")
    assert client.is_ready("duo", "5")
    client.wait_until_ready(30, "duo", "a/b")
    client.classify("duo", [[1, 2]], 1, version="7")
    assert model.versions == [*"77772345", "a/b", "7"]


def test_not_ready(model, client):
    model.is_ready = False
    assert not client.is_ready()
    assert not client.is_ready("duo")
    for name in ("", "duo"):
        with pytest.raises(Unavailable, match="not ready after 0 s"):
            client.wait_until_ready(0, name)
    model.is_ready = True
    client.wait_until_ready(30)
    client.wait_until_ready(30, "duo")


def test_a_handle(model, url):
    with EnsembleClient(url) as client:
        duo = client.ensemble("duo")
        assert duo.name == "duo"
        assert duo.predict([[1, 2]], timeout=5).values.tolist() == [[2, 3]]
        assert duo.classify([[1, 2]], 1) == [[("tabby: a cat", 0.75)]]
        assert duo.metadata() == model.metadata
        assert duo.config() == client.config("duo")
        assert duo.is_ready()
        duo.wait_until_ready(30)
        assert duo.statistics()["inference_count"] == 2
        assert repr(duo) == f"EnsembleClient('{url}').ensemble('duo')"


def test_an_asynchronous_handle(model, url):
    async def ask():
        async with AsyncEnsembleClient(url) as client:
            duo = client.ensemble("duo")
            assert (await duo.predict([[1, 2]])).values.tolist() == [[2, 3]]
            assert await duo.classify([[1, 2]], 1) == [[("tabby: a cat", 0.75)]]
            assert await duo.metadata() == model.metadata
            assert await duo.config() == await client.config("duo")
            assert await duo.is_ready()
            await duo.wait_until_ready(30)
            assert (await duo.statistics())["inference_count"] == 2
            assert repr(duo) == f"AsyncEnsembleClient('{url}').ensemble('duo')"

    asyncio.run(ask())


def test_an_api_key(model, make, url):
    make(url, headers={"X-Team": "blue"}, api_key="ensembled_me").predict("duo", [[1, 2]])
    (headers,) = model.headers
    lower = {name.lower(): text for name, text in headers.items()}
    assert lower["authorization"] == "Bearer ensembled_me"
    assert lower["x-team"] == "blue"


@pytest.mark.parametrize("key", ["", "two words", "line\r\nX: y", "schlüssel"])
def test_what_can_be_no_api_key(make, key):
    with pytest.raises(EnsembledClientError, match="characters that no key has") as error:
        make("http://127.0.0.1:1", api_key=key)
    assert not key or key not in str(error.value)


def test_headers(model, make, url):
    make(url, headers={"Authorization": "Bearer me"}).predict("duo", [[1, 2]])
    (headers,) = model.headers
    assert {name.lower(): text for name, text in headers.items()}["authorization"] == "Bearer me"


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compression(model, make, url, compression):
    client = make(url, compression=compression)
    x = np.zeros((1000, 2), np.float32)
    assert client.predict("duo", x).values.shape == (1000, 2)
    if url.startswith("http"):
        assert model.headers[0]["Content-Encoding"] == compression
        assert int(model.headers[0]["Content-Length"]) < 1000
        assert model.headers[0]["Accept-Encoding"] == "identity"


def test_a_closed_client(url):
    client = EnsembleClient(url)
    client.close()
    for ask in (client.is_ready, client.server_metadata):
        with pytest.raises(EnsembledClientError, match="closed"):
            ask()


def test_what_is_imported():
    code = "import json, sys, ensembled_client; print(json.dumps(list(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(json.loads(ended.stdout))
    assert not modules & {"grpc", "google.protobuf", "httpx", "PIL", "server", "pydantic"}


def test_without_grpcio(monkeypatch):
    monkeypatch.delitem(sys.modules, "ensembled_client.grpc_transport", raising=False)
    monkeypatch.delattr("ensembled_client.grpc_transport", raising=False)
    monkeypatch.setitem(sys.modules, "grpc", None)
    for kind in (EnsembleClient, AsyncEnsembleClient):
        with pytest.raises(EnsembledClientError, match=r"pip install 'ensembled-client\[grpc\]'"):
            kind("grpc://127.0.0.1:1")
    assert any("grpcio" in line and "extra" in line for line in requires("ensembled-client"))


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        ("host:8000", {}, "not the URL of a server"),
        ("ftp://host", {}, "not the URL of a server"),
        ("ftp://host:21", {}, "not the URL of a server"),
        ("http://", {}, "not the URL of a server"),
        ("http://host:port", {}, "not the URL of a server"),
        ("grpc://host:8001/path", {}, "has no path"),
        ("http://me:secret@host", {}, "no user and password"),
        ("http://host", {"compression": "zstd"}, "gzip or deflate"),
        ("https://host", {"root_certificates": "/nowhere"}, "no root certificates at /nowhere"),
    ],
)
def test_what_makes_no_client(url, options, text):
    for kind in (EnsembleClient, AsyncEnsembleClient):
        with pytest.raises(EnsembledClientError, match=text):
            kind(url, **options)
