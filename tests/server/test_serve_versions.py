"""Versions of members and ensembles, served from a model repository, over HTTP and gRPC."""

import numpy as np
import pytest
import yaml
from ensembled_client import EnsembleClient, UnknownModel
from networks import write_linear
from serving import fake, post_outputs, running

pytestmark = pytest.mark.process

X = np.array([[1, 2, 3], [4, 5, 7]], np.float32)
CAT = """
name: "cat"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
version_policy { latest { num_versions: 2 } }
"""
ENSEMBLES = {
    "newest": {"members": ["cat", "dog"]},
    "older": {"members": ["cat@2", "dog"]},
    "both": {"members": ["cat@3", "cat@2"]},
    "owls": {
        "versions": {1: {"members": ["owl@1", "owl@2"]}, 2: {"members": ["owl"], "rule": "max"}}
    },
}
OTHERS = {
    "devices": [{"name": "cpu:0", "cores": [0]}],
    "members": {
        "owl": {
            "model": {"versions": {one: fake(one, inputs=3, outputs=3) for one in (1, 2)}},
        }
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Version N of `cat` multiplies by N, `dog` by 10; version N of `owl` adds N."""
    directory = tmp_path_factory.mktemp("models")
    for name, version, factor in (("cat", 1, 1), ("cat", 2, 2), ("cat", 3, 3), ("dog", 1, 10)):
        folder = directory / name / str(version)
        folder.mkdir(parents=True)
        write_linear(folder / "model.onnx", np.eye(3) * factor)
    (directory / "cat/config.pbtxt").write_text(CAT)
    (directory / "cat/labels.txt").write_text("a\nb\nc\n")
    (directory / "cat/old").mkdir()
    (directory / "dog/member.yaml").write_text("outputs: {y: {}}")
    (directory / "ensembles.yaml").write_text(yaml.safe_dump(ENSEMBLES))
    (directory / "repository.yaml").write_text(yaml.safe_dump(OTHERS))
    with running(directory, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.mark.parametrize(
    ("model", "version", "expected"),
    [
        ("cat", "3", X * 3),
        ("cat/versions/2", "2", X * 2),
        ("cat/versions/3", "3", X * 3),
        ("dog", "1", X * 10),
        ("owl", "2", X + 2),
        ("owl/versions/1", "1", X + 1),
        ("newest", "1", X * 6.5),
        ("older", "1", X * 6),
        ("both", "1", X * 2.5),
        ("owls", "2", X + 2),
        ("owls/versions/1", "1", X + 1.5),
    ],
)
def test_which_version_answers(server, model, version, expected):
    answer = server.predict(model, X)
    np.testing.assert_allclose(answer.values, expected, rtol=1e-6)
    assert answer.json["model_version"] == version
    assert answer.json["model_name"] == model.partition("/")[0]


@pytest.mark.parametrize("model", ["cat/versions/1", "cat/versions/4", "dog/versions/2", "cat@2"])
def test_versions_that_are_not_served(server, model):
    assert server.predict(model, X).status == 404


def test_members_are_called_by_their_names(server):
    answer = server.predict("newest", X)
    assert answer.members == ["cat", "dog"]
    assert server.predict("both", X).members == ["cat@3", "cat@2"]
    answer = post_outputs(server, "newest", ["y", "y.cat"], X)
    assert [output["name"] for output in answer.json["outputs"]] == ["y", "y.cat"]
    answer = post_outputs(server, "both", ["output.cat@2"], X)
    assert [output["name"] for output in answer.json["outputs"]] == ["output.cat@2"]
    assert server.predict("both", X, members="cat@2").members == ["cat@2"]


def test_metadata_and_statistics_are_per_version(server):
    document = server.client.get("/v2/models/cat/versions/2").json()
    assert (document["name"], sorted(document["versions"])) == ("cat", ["2", "3"])
    config = server.client.get("/v2/models/cat/versions/2/config").json()
    assert config["ensemble"]["labels"] == ["a", "b", "c"]
    assert config["allocation"] == {"cpu:0": {"cat@2": 8}}
    (statistics,) = server.client.get("/v2/models/cat/versions/2/stats").json()["model_stats"]
    assert (statistics["name"], statistics["version"]) == ("cat", "2")
    assert server.client.get("/v2/models/cat/versions/2/ready").status_code == 200
    assert server.client.get("/v2/models/cat/versions/1/ready").status_code == 404


def test_the_warning_of_the_start(server):
    (line,) = [line for line in server.stderr.splitlines() if "config.pbtxt" in line]
    assert "instance_group (the allocation says what runs where, and how often)" in line
    (line,) = [line for line in server.stderr.splitlines() if "not a version" in line]
    assert line.endswith("/cat: not a version, which is a whole number from 1: old")


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_clients_name_versions(server, scheme):
    url = server.url if scheme == "http" else f"grpc://{server.grpc}"
    with EnsembleClient(url) as client:
        for version, factor in (("", 3), ("2", 2), ("3", 3)):
            values = client.predict("cat", X, version=version).values
            np.testing.assert_allclose(values, X * factor, rtol=1e-6)
        assert client.is_ready("cat", "2")
        with pytest.raises(UnknownModel):
            client.predict("cat", X, version="1")


def test_a_new_version_is_served_after_a_reload(tmp_path):
    directory = tmp_path / "models"
    (directory / "cat/1").mkdir(parents=True)
    write_linear(directory / "cat/1/model.onnx", np.eye(3))
    (directory / "repository.yaml").write_text(yaml.safe_dump({"devices": OTHERS["devices"]}))
    (directory / "ensembles.yaml").write_text("all: {members: [cat]}")
    with running(directory, tmp_path) as server, EnsembleClient(server.url) as client:
        np.testing.assert_allclose(client.predict("cat", X).values, X)
        (directory / "cat/2").mkdir()
        write_linear(directory / "cat/2/model.onnx", np.eye(3) * 2)
        change = client.reload(directory)
        assert change.changes[0].startswith("member cat@2: new")
        np.testing.assert_allclose(client.predict("cat", X).values, X * 2)
        np.testing.assert_allclose(client.predict("all", X).values, X * 2)
        with pytest.raises(UnknownModel):
            client.predict("cat", X, version="1")
