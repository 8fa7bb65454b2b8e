"""Both clients over both protocols: changes of what a server serves."""

import json

import pytest
from ensembled_client import Change, RequestRejected, ServerFailure
from stub_servers import Failed

X = [[1, 2]]


def test_load(model, client):
    client.load_model("a")
    files = {"file:1/model.onnx": b"\0weights", "file:2/model.onnx": b""}
    client.load_model("a b", config={"max_batch_size": 8}, files=files)
    client.load_model("a", '{"name": "a"}')
    assert model.changes == [
        ("load", "a", {}),
        ("load", "a b", {"config": '{"max_batch_size": 8}', **files}),
        ("load", "a", {"config": '{"name": "a"}'}),
    ]


def test_a_file_has_a_version(model, client):
    with pytest.raises(RequestRejected, match="file:1/model.onnx, not 'model.onnx'"):
        client.load_model("a", files={"model.onnx": b""})
    assert model.changes == []


def test_unload(model, client):
    client.unload_model("a")
    client.unload_model("duo", unload_dependents=True)
    assert model.changes == [
        ("unload", "a", {"unload_dependents": False}),
        ("unload", "duo", {"unload_dependents": True}),
    ]


def test_reload(model, make, http_url):
    client = make(http_url)
    assert client.reload() == Change(2, ("member a: changed",))
    assert client.reload("/c.yaml", dry_run=True).generation == 3
    assert model.changes == [
        ("reload", "", {"path": "", "dry_run": False}),
        ("reload", "", {"path": "/c.yaml", "dry_run": True}),
    ]


def test_roll_outs(model, make, http_url):
    client = make(http_url)
    assert client.rollout("a b", "promote") == Change(2, ("member a: changed",))
    client.rollout("a", "percent", 20)
    assert model.changes == [
        ("rollout", "a b", {"action": "promote"}),
        ("rollout", "a", {"action": "percent", "percent": 20}),
    ]


def test_placement(model, make, http_url):
    client = make(http_url)
    allocation = '{"members": ["a"], "devices": ["cpu:0"], "matrix": [[8]]}'
    assert client.place(allocation) == Change(2, ("member a: changed",))
    client.place(allocation, dry_run=True)
    document = json.loads(allocation)
    assert model.changes == [
        ("placement", "", document),
        ("placement?dry_run=true", "", document),
    ]
    with pytest.raises(RequestRejected, match="the allocation is not JSON"):
        client.place("a.json")


def test_what_is_not_there_over_grpc(model, make, grpc_url):
    with pytest.raises(RequestRejected, match="a reload is not part of .*: use http://"):
        make(grpc_url).reload()
    with pytest.raises(RequestRejected, match="a rollout is not part of .*: use http://"):
        make(grpc_url).rollout("a", "promote")


def test_an_answer_that_is_none(model, make, http_url, monkeypatch):
    monkeypatch.setattr(model, "change", lambda *_: [])
    with pytest.raises(ServerFailure, match="can't be understood"):
        make(http_url).reload()
    make(http_url).load_model("a")  # other servers answer nothing


def test_changes_that_are_refused(model, client):
    model.failures = [Failed(403, "not permitted"), Failed(400, "no file")]
    with pytest.raises(RequestRejected, match="not permitted"):
        client.load_model("a")
    with pytest.raises(RequestRejected, match="no file"):
        client.unload_model("a")


def test_a_server_that_is_busy_is_asked_again(model, client):
    model.failures = [Failed(429, retry_after=0), Failed(503, retry_after=0)]
    client.load_model("a")
    assert len(model.changes) == 3


def test_what_was_known_of_models_is_looked_up_again(model, client):
    client.predict("duo", X)
    client.predict("duo", X)
    seen = len(model.seen)
    client.load_model("a")
    client.predict("duo", X)
    assert len(model.seen) == seen + 4  # the change, metadata, configuration, the request


def test_the_generation_of_an_answer(model, client):
    assert client.predict("duo", X).generation == 0
    model.more_parameters = {"generation": 7}
    assert client.predict("duo", X).generation == 7
    assert client.predict("duo", X * 3, max_rows=1).generation == 7
    generations = iter([7, 8, 8])
    infer = model.infer

    def infer_later(*arguments):
        model.more_parameters = {"generation": next(generations)}
        return infer(*arguments)

    model.infer = infer_later
    assert client.predict("duo", X * 3, max_rows=1).generation == 0  # not of one deployment
