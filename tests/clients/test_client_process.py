"""The clients against the real server with fake members, over both protocols."""

import asyncio
import threading

import numpy as np
import pytest
from ensembled_client import (
    AsyncEnsembleClient,
    DeadlineExceeded,
    EnsembleClient,
    RequestRejected,
    RequestTooLarge,
    ServerFailure,
    UnknownModel,
)
from ensembled_client.models import ModelInfo
from serving import configuration, fake, running

pytestmark = pytest.mark.process

LABELS = ["cat", "dog", "eel"]
LIMIT_BYTES = 8000


def config():
    options = {"inputs": 4, "outputs": 3}
    low, high = (
        {**fake(add, **options), "output": "probabilities", "labels": "labels.txt"}
        for add in (0, 10)
    )
    members = {
        "low": low,
        "high": high,
        "plain": fake(0, **options),
        "slow": fake(sleep_ms=500, batch_size=1, **options),
        "broken": fake(fail="raise", **options),
    }
    where = {name: 1 if name == "slow" else 0 for name in members}
    document = configuration(members, on=2, where=where, max_request_bytes=LIMIT_BYTES)
    document["ensembles"] = {
        "duo": {"members": ["low", "high"], "quorum": 1},
        "late": {"members": ["plain", "slow"], "quorum": 1},
        "stuck": {"members": ["plain", "slow"]},
        "weak": {"members": ["plain", "broken"]},
    }
    return document


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("client")
    (directory / "labels.txt").write_text("\n".join(LABELS))
    with running(config(), directory) as server:
        yield server


@pytest.fixture(params=["http", "grpc"])
def url(request, server):
    return server.url if request.param == "http" else f"grpc://{server.grpc}"


@pytest.fixture
def client(make, url):
    client = make(url)
    client.wait_until_ready(30)
    return client


X = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_predict(client):
    prediction = client.predict("duo", X, timeout=30)
    assert prediction.values.tolist() == (X[:, :3] + 5).tolist()
    assert (prediction.members, prediction.degraded) == (("low", "high"), False)
    assert client.predict("high", X[0]).values.tolist() == [[10, 11, 12]]


def test_labels(client):
    prediction = client.predict("duo", [[0, 2, 1, 9], [5, 4, 3, 9]])
    assert prediction.labels == ("dog", "cat")
    assert prediction.top(2) == [[("dog", 7), ("eel", 6)], [("cat", 10), ("dog", 9)]]
    assert client.classify("duo", [[0, 2, 1, 9]], top=2) == [[("dog", 7), ("eel", 6)]]


def test_the_best_class_alone(client):
    rows = [[0, 2, 1, 9], [3, 2, 1, 9], [0, 2, 5, 9]]
    asked = client.best_class("duo", rows)
    assert (asked.dtype, asked.tolist()) == (np.int64, [1, 0, 2])
    split = client.best_class("duo", rows * 50, max_rows=7)
    assert split.tolist() == [1, 0, 2] * 50
    with pytest.raises(RequestRejected, match="no output 'class'"):
        client.best_class("late", rows)


def test_members_quorum_and_what_each_said(client):
    prediction = client.predict("duo", X, members=["high"], quorum=1, member_outputs=True)
    assert prediction.members == ("high",)
    assert prediction.values.tolist() == (X[:, :3] + 10).tolist()
    assert list(prediction.member_values) == ["high"]
    prediction = client.predict("duo", X, member_outputs=True)
    assert prediction.member_values["low"].tolist() == X[:, :3].tolist()
    assert prediction.member_values["high"].tolist() == (X[:, :3] + 10).tolist()
    assert prediction.member_mask.shape == (3, 2)
    assert prediction.member_mask.all()


def test_uncertainty(client):
    prediction = client.predict("duo", np.eye(3, 4, dtype=np.float32), uncertainty=True)
    assert set(prediction.uncertainty) == {
        "entropy",
        "expected_entropy",
        "mutual_information",
        "variance",
        "vote_share",
        "disagreement",
    }
    for scores in prediction.uncertainty.values():
        assert scores.shape == (3,)
        assert scores.dtype == np.float32
    only = client.predict("duo", X, uncertainty="vote_share").uncertainty
    assert {name: scores.tolist() for name, scores in only.items()} == {"vote_share": [1, 1, 1]}
    with pytest.raises(RequestRejected, match="no uncertainty"):
        client.predict("low", X, uncertainty=True)


def test_deadlines(client):
    prediction = client.predict("late", X, timeout=1)  # for its rows, slow takes longer
    assert (prediction.members, prediction.degraded) == (("plain",), True)
    with pytest.raises(DeadlineExceeded, match="quorum") as caught:
        client.predict("stuck", X, timeout=0.05)
    assert caught.value.status == 504


def test_errors(client):
    with pytest.raises(UnknownModel, match="unknown model: 'nobody'"):
        client.predict("nobody", [[1]])
    with pytest.raises(RequestRejected, match="shape"):
        client.predict("duo", [[1]])
    with pytest.raises(RequestRejected, match="nobody"):
        client.predict("duo", X, members=["nobody"])
    with pytest.raises(RequestRejected, match="quorum"):
        client.predict("duo", X, quorum=3)
    with pytest.raises(ServerFailure, match="broken"):
        client.predict("weak", X)


def test_more_rows_than_fit_one_request(client):
    x = np.arange(16_000, dtype=np.float32).reshape(4000, 4) % 1000
    prediction = client.predict("duo", x, uncertainty=["variance"], timeout=60)
    assert (prediction.values == x[:, :3] + 5).all()
    assert prediction.uncertainty["variance"].shape == (4000,)
    assert prediction.members == ("low", "high")
    assert prediction.timing.pieces >= 4000 * 16 / LIMIT_BYTES


def test_the_limit_is_met_exactly(client):
    """Every size around the limit is either one request or two, and never refused."""
    pieces = [client.predict("duo", np.zeros((rows, 4))).timing.pieces for rows in (440, 505)]
    assert pieces == [1, 2]
    for rows in range(470, 500, 3):
        assert client.predict("duo", np.zeros((rows, 4))).values.shape == (rows, 3)


def test_a_body_that_the_server_finds_too_large(url):
    with EnsembleClient(url) as client:
        client.predict("duo", X)
        known = client._session._models["duo", ""]
        client._session._models["duo", ""] = ModelInfo(known.metadata)  # it forgets the limit
        with pytest.raises(RequestTooLarge):
            client.predict("duo", np.zeros((2000, 4)))


def test_questions(client):
    models = {model.name: model for model in client.models()}
    assert set(models) == {*config()["ensembles"], *config()["members"]}
    assert models["duo"].is_ready
    assert client.is_live()
    assert client.is_ready("duo")
    assert client.server_metadata()["name"] == "ensembled"
    assert client.metadata("duo")["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    limit = client.config("duo")["parameters"]["max_request_bytes"]
    assert limit == {"string_value": str(LIMIT_BYTES)}
    before = client.statistics("duo")[0]["inference_count"]
    client.predict("duo", X)
    assert client.statistics("duo")[0]["inference_count"] == before + 3


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compressed_requests(make, url, compression):
    x = np.zeros((100, 4), np.float32)
    assert make(url, compression=compression).predict("duo", x).values.shape == (100, 3)


def test_many_tasks_share_a_client(url):
    async def ask_all():
        async with AsyncEnsembleClient(url) as client:
            duo = client.ensemble("duo")
            rows = [np.full((1 + i % 3, 4), i, np.float32) for i in range(200)]
            return rows, await asyncio.gather(*(duo.predict(row) for row in rows))

    rows, predictions = asyncio.run(ask_all())
    for row, prediction in zip(rows, predictions, strict=True):
        assert prediction.values.tolist() == (row[:, :3] + 5).tolist()


def test_many_threads_share_a_client(url):
    wrong = []

    def ask(number):
        for i in range(20):
            x = np.full((1, 4), 100 * number + i, np.float32)
            if (duo.predict(x).values != x[:, :3] + 5).any():
                wrong.append((number, i))

    with EnsembleClient(url) as client:
        duo = client.ensemble("duo")
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
