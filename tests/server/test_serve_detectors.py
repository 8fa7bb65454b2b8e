"""Ensembles of detectors through a real server: boxes of all members, by every rule."""

import json

import numpy as np
import pytest
from ensembled_client import EnsembleClient
from networks import write_network
from serving import devices, running
from typer.testing import CliRunner

from server.cli.main import app
from workers.rules import detection

pytestmark = pytest.mark.process

#: Boxes of the members `four` and `three`; they find what their input holds.
SIZES = {"four": 4, "three": 3}
SHIFT = {"four": 0.0, "three": 2.0}
NAMES = ("boxes", "scores", "classes")
RULES = ("weighted_boxes", "nms", "soft_nms")


def write_detector(path, boxes, shift):
    """Write a network of x [n, 24]: per box four corners, which it shifts, a score and a class."""
    parts = {"corners": (0, 4), "raw_scores": (4, 5), "raw_classes": (5, 6)}
    write_network(
        path,
        [
            ("Reshape", ["x", "table_shape"], "table", {}),
            ("Slice", ["table", "zero", "boxes_stop", "axis_1"], "found", {}),
            *(
                ("Slice", ["found", f"{name}_start", f"{name}_stop", "axis_2"], name, {})
                for name in parts
            ),
            ("Add", ["corners", "shift"], "boxes", {}),
            ("Squeeze", ["raw_scores", "axis_2"], "scores", {}),
            ("Squeeze", ["raw_classes", "axis_2"], "float_classes", {}),
            ("Cast", ["float_classes"], "classes", {"to": 7}),
        ],
        x=("FP32", [24]),
        outputs={"boxes": "FP32", "scores": "FP32", "classes": "INT64"},
        constants={
            "table_shape": np.array([-1, 4, 6]),
            "zero": np.array([0]),
            "boxes_stop": np.array([boxes]),
            "axis_1": np.array([1]),
            "axis_2": np.array([2]),
            "shift": np.array(shift, np.float32),
            **{f"{name}_start": np.array([start]) for name, (start, _) in parts.items()},
            **{f"{name}_stop": np.array([stop]) for name, (_, stop) in parts.items()},
        },
    )


def scene(seed):
    """A row of x: four boxes, of which some are about the same object."""
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 60, (2, 2)).repeat(2, axis=0) + random.uniform(0, 6, (4, 2))
    size = random.uniform(20, 40, (2, 2)).repeat(2, axis=0)
    found = [corner, corner + size, random.uniform(0.1, 1, (4, 1)), random.integers(0, 2, (4, 1))]
    return np.concatenate(found, axis=1).astype(np.float32).ravel()


X = np.stack([scene(seed) for seed in range(5)])


def found_by(member):
    """What a member finds in X, as its network computes it, padded to four boxes."""
    table = X.reshape(-1, 4, 6).copy()
    table[..., :4] += np.float32(SHIFT[member])
    table[:, SIZES[member] :] = 0
    return table[..., :4], table[..., 4], table[..., 5]


def combined(rule, members=("four", "three"), weights=None, most=4, **options):
    inputs = [np.stack(one) for one in zip(*map(found_by, members), strict=True)]
    answers = (
        np.empty((5, most, 4), np.float32),
        np.empty((5, most), np.float32),
        np.empty((5, most), np.int64),
        np.empty(5, np.int64),
    )
    weights = np.ones(len(members)) if weights is None else np.array(weights)
    getattr(detection, rule)(inputs, weights, answers, **options)
    return dict(zip((*NAMES, "count"), answers, strict=True))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("detectors")
    for name, boxes in SIZES.items():
        write_detector(directory / f"{name}.onnx", boxes, SHIFT[name])
    members = {
        name: {
            "model": f"{name}.onnx",
            "outputs": {
                one: {"max_shape": [boxes, 4] if one == "boxes" else [boxes]} for one in NAMES
            },
        }
        for name, boxes in SIZES.items()
    }
    both = {"members": ["four", "three"], "quorum": 1}
    ensembles = {rule: {**both, "rule": rule} for rule in RULES}
    ensembles["limited"] = {
        **both,
        "rule": "weighted_boxes",
        "weights": {"four": 3, "three": 1},
        "boxes": {"iou": 0.3, "skip": 0.3, "score": "maximum", "most": 2},
    }
    allocation = {"members": [*members], "devices": ["cpu:0"], "matrix": [[8] * len(members)]}
    (directory / "allocation.json").write_text(json.dumps(allocation))
    path = directory / "config.yaml"
    document = {
        "members": members,
        "ensembles": ensembles,
        "devices": devices(1),
        "allocation": "allocation.json",
    }
    path.write_text(json.dumps(document))
    with running(path, directory) as server:
        yield server


@pytest.fixture(params=["http", "grpc"])
def client(server, request):
    address = server.url if request.param == "http" else f"grpc://{server.grpc}"
    with EnsembleClient(address) as client:
        yield client


def ask(client, model, **options):
    return client.predict(model, X, outputs=[*NAMES, "count"], **options).outputs


def same(answer, wanted):
    for name, values in wanted.items():
        np.testing.assert_allclose(answer[name], values, rtol=1e-6, err_msg=name)
        assert answer[name].dtype == values.dtype


@pytest.mark.parametrize("rule", RULES)
def test_the_answer_is_that_of_the_rule(client, rule):
    same(ask(client, rule), combined(rule))


def test_weights_limits_and_fewer_boxes(client):
    wanted = combined("weighted_boxes", weights=(3, 1), most=2, iou=0.3, skip=0.3, score="maximum")
    same(ask(client, "limited"), wanted)


def test_members_own_boxes_are_outputs_on_request(client):
    names = [f"{one}.three" for one in NAMES]
    answer = client.predict("nms", X, outputs=names).outputs
    for name, values in zip(names, found_by("three"), strict=True):
        np.testing.assert_allclose(answer[name], values, rtol=1e-6)


def test_a_request_may_name_members(client):
    same(ask(client, "nms", members=["three"]), combined("nms", ["three"]))


def test_without_names_of_outputs_the_answer_has_all(server):
    answer = server.client.post(
        "/v2/models/nms/infer",
        json.dumps(
            {"inputs": [{"name": "x", "shape": [1, 24], "datatype": "FP32", "data": X[0].tolist()}]}
        ).encode(),
    )
    assert [(one["name"], one["datatype"], one["shape"]) for one in answer.json["outputs"]] == [
        ("boxes", "FP32", [1, 4, 4]),
        ("scores", "FP32", [1, 4]),
        ("classes", "INT64", [1, 4]),
        ("count", "INT64", [1]),
    ]


def test_the_command_line_shows_boxes(server, tmp_path):
    for rows in (1, 5):
        np.save(tmp_path / f"{rows}.npy", X[:rows])
    expected = combined("weighted_boxes")
    count = int(expected["count"][0])
    for url in (server.url, f"grpc://{server.grpc}"):
        arguments = ["predict", "weighted_boxes", str(tmp_path / "1.npy"), "--url", url]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert result.stdout.count("0.") >= count
        assert f"{expected['boxes'][0, 0, 0]:.6g}" in result.stdout
    (row,) = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)["rows"]
    assert row["count"] == count
    np.testing.assert_allclose(row["scores"], expected["scores"][0], rtol=1e-5)
    arguments[2] = str(tmp_path / "5.npy")
    lines = CliRunner().invoke(app, arguments).stdout
    assert f"{count} boxes" in lines
