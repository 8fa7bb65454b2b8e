"""Members of one ensemble that take different inputs, through a real server and every client."""

import io
import json

import numpy as np
import onnxruntime
import pytest
from ensembled_client import EnsembleClient, RequestRejected
from networks import write_linear, write_network
from PIL import Image
from scipy import special
from serving import devices, running
from typer.testing import CliRunner

from server.cli.main import app

pytestmark = pytest.mark.process

RANDOM = np.random.default_rng(7)
SIDE, COLUMNS, CLASSES = 6, 4, 3
MEAN, STD = 120.0, 60.0
IMAGE = {"size": SIDE, "crop": 1.0, "mean": MEAN, "std": STD}
ROWS = 5
PIXELS = RANDOM.integers(0, 256, (ROWS, SIDE, SIDE, 3), np.uint8)
TABLE = RANDOM.normal(size=(ROWS, COLUMNS)).astype(np.float32)
WEIGHTS = {
    "photo": RANDOM.normal(size=(3 * SIDE * SIDE, CLASSES)) / 9,
    "table": RANDOM.normal(size=(COLUMNS, CLASSES)),
    "both": RANDOM.normal(size=(3 * SIDE * SIDE + COLUMNS, 2)) / 9,
    "ids": RANDOM.normal(size=(2, CLASSES)),
}
IDS = RANDOM.integers(0, 5, (ROWS, 2))
LABELS = {"photo": "red green blue", "table": "red green blue", "both": "blue green"}


def write_models(directory):
    """Networks of an image, of a table, of both, and of whole numbers."""
    flatten = ("Flatten", ["x"], "flat", {"axis": 1})
    constants = {name: {"w": one.astype(np.float32)} for name, one in WEIGHTS.items()}
    write_network(
        directory / "photo.onnx",
        [flatten, ("MatMul", ["flat", "w"], "y", {})],
        x=("FP32", [3, SIDE, SIDE]),
        outputs={"y": "FP32"},
        constants=constants["photo"],
    )
    write_linear(directory / "table.onnx", WEIGHTS["table"])
    write_network(
        directory / "both.onnx",
        [
            flatten,
            ("Concat", ["flat", "table"], "all", {"axis": 1}),
            ("MatMul", ["all", "w"], "y", {}),
        ],
        x=("FP32", [3, SIDE, SIDE]),
        more={"table": ("FP32", [COLUMNS])},
        outputs={"y": "FP32"},
        constants=constants["both"],
    )
    write_network(
        directory / "ids.onnx",
        [("Cast", ["x"], "f", {"to": 1}), ("MatMul", ["f", "w"], "y", {})],
        x=("INT64", [2]),
        outputs={"y": "FP32"},
        constants=constants["ids"],
    )
    for name, labels in LABELS.items():
        (directory / f"{name}.txt").write_text(labels.replace(" ", "\n"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("inputs")
    write_models(directory)
    return directory


@pytest.fixture(scope="module")
def server(directory):
    probable = {"output": "logits"}
    members = {
        "photo": {"model": "photo.onnx", "input": {"image": IMAGE}, "labels": "photo.txt"},
        "table": {"model": "table.onnx", "inputs": {"x": "table"}, "labels": "table.txt"},
        "both": {"model": "both.onnx", "inputs": {"x": {"image": IMAGE}}, "labels": "both.txt"},
        "ids": {"model": "ids.onnx", "inputs": {"x": "ids"}},
        "columns": {"model": "table.onnx", "inputs": {"x": "table"}},
    }
    members = {name: {**one, **probable} for name, one in members.items()}
    allocation = {"members": list(members), "devices": ["cpu:0"], "matrix": [[8] * len(members)]}
    (directory / "allocation.json").write_text(json.dumps(allocation))
    cascade = {"cascade": [["columns"], ["ids"]], "confidence": [0.9]}
    config = {
        "members": members,
        "ensembles": {
            "mixed": {"members": ["photo", "table", "both"], "quorum": 1},
            "numbers": {"members": ["ids", "columns"]},
            "stages": {"members": ["columns", "ids"], **cascade},
        },
        "devices": devices(1),
        "allocation": "allocation.json",
    }
    with running(config, directory) as server:
        yield server


@pytest.fixture(scope="module")
def wanted(directory):
    """Each member's probabilities of its own classes, by ONNX Runtime itself."""
    scaled = ((PIXELS.astype(np.float32) - MEAN) / STD).transpose(0, 3, 1, 2)
    feeds = {
        "photo": {"x": scaled},
        "table": {"x": TABLE},
        "both": {"x": scaled, "table": TABLE},
        "ids": {"x": IDS},
    }
    found = {}
    for name, feed in feeds.items():
        session = onnxruntime.InferenceSession(
            directory / f"{name}.onnx", providers=["CPUExecutionProvider"]
        )
        (logits,) = session.run(None, feed)
        found[name] = special.softmax(logits, axis=1)
    # The classes of `both` are blue and green, those of the others red, green and blue.
    found["both"] = np.pad(found["both"][:, ::-1], ((0, 0), (1, 0)))
    return found


ALL = {"image": PIXELS, "table": TABLE}
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(params=["http", "grpc"])
def client(request, server):
    url = server.url if request.param == "http" else f"grpc://{server.grpc}"
    with EnsembleClient(url) as client:
        yield client


def infer(server, model, inputs, **parameters):
    """Ask for the combined output, in binary over HTTP."""
    datatypes = {"f": "FP32", "i": "INT64", "u": "UINT8"}
    tensors = [
        {
            "name": name,
            "shape": x.shape,
            "datatype": datatypes[x.dtype.kind],
            "parameters": {"binary_data_size": x.nbytes},
        }
        for name, x in inputs.items()
    ]
    parameters["binary_data_output"] = True
    header = json.dumps({"inputs": tensors, "parameters": parameters}).encode()
    body = header + b"".join(x.tobytes() for x in inputs.values())
    length = {"Inference-Header-Content-Length": str(len(header))}
    return server.client.post(f"/v2/models/{model}/infer", body, length)


def test_all_inputs_of_all_members(client, wanted):
    answer = client.predict("mixed", ALL, member_outputs=True, uncertainty=True)
    assert answer.members == ("photo", "table", "both")
    assert answer.class_names == ("red", "green", "blue")
    for name, values in answer.member_values.items():
        np.testing.assert_allclose(values, wanted[name], **CLOSE)
    np.testing.assert_allclose(
        answer.values, np.mean([wanted[name] for name in answer.members], axis=0), **CLOSE
    )


def test_members_that_are_named_need_only_their_own_inputs(client, wanted):
    for members, x in (
        (["table"], {"table": TABLE}),
        (["table"], ALL),
        (["photo"], {"image": PIXELS}),
        (["both", "table"], ALL),
    ):
        answer = client.predict("mixed", x, members=members)
        np.testing.assert_allclose(
            answer.values, np.mean([wanted[name] for name in members], axis=0), **CLOSE
        )
    with pytest.raises(RequestRejected, match=r"'image' \(needed by photo\) is missing"):
        client.predict("mixed", {"table": TABLE}, members=["photo", "table"])
    with pytest.raises(RequestRejected, match=r"'image' \(needed by photo, both\) is missing"):
        client.predict("mixed", {"table": TABLE})


def test_requests_that_come_again_are_not_parsed_again(server, client, wanted):
    numbers = {"ids": IDS, "table": TABLE}
    for members, x in (
        ("", numbers),
        ("columns", {"table": TABLE}),
        ("columns", numbers),
        ("ids", {"table": TABLE, "ids": IDS}),
        ("ids", {"ids": IDS}),
    ):
        chosen = members or "ids,columns"
        columns = [wanted["table" if name == "columns" else name] for name in chosen.split(",")]
        mean = np.mean(columns, axis=0)
        parameters = {"members": members} if members else {}
        for start in (0, 3, 1):  # the first makes a plan, which the others follow
            rows = {name: np.roll(one, start, axis=0) for name, one in x.items()}
            answer = infer(server, "numbers", rows, **parameters)
            np.testing.assert_allclose(answer.values, np.roll(mean, start, axis=0), **CLOSE)
            again = client.predict("numbers", rows, members=members.split(",") if members else None)
            np.testing.assert_allclose(again.values, np.roll(mean, start, axis=0), **CLOSE)


def test_a_cascade_has_the_inputs_of_all_stages(client, wanted):
    answer = client.predict("stages", {"table": TABLE, "ids": IDS})
    first, both = wanted["table"], (wanted["table"] + wanted["ids"]) / 2
    sure = first.max(axis=1, keepdims=True) >= 0.9
    np.testing.assert_allclose(answer.values, np.where(sure, first, both), **CLOSE)
    with pytest.raises(RequestRejected, match=r"'ids' \(needed by ids\) is missing"):
        client.predict("stages", {"table": TABLE})


@pytest.mark.parametrize(
    ("inputs", "parameters", "complaint"),
    [
        ({"table": TABLE}, {}, r"'image' (needed by photo, both) is missing"),
        ({"image": PIXELS}, {"quorum": 1}, r"'table' (needed by table, both) is missing"),
        ({"table": TABLE}, {"members": "both"}, r"'image' (needed by both) is missing"),
        ({**ALL, "ids": IDS}, {"members": "table"}, "'ids' is none of them"),
        ({"image": PIXELS[:2], "table": TABLE}, {}, "'table' has 5 rows, 'image' 2"),
        ({"image": PIXELS[:2], "table": TABLE}, {"members": "table"}, "has 5 rows"),
        ({"image": TABLE, "table": TABLE}, {"members": "table"}, "UINT8 [-1, height, width, 3]"),
        ({"table": TABLE[:, 1:]}, {"members": "table"}, "'table' has shape [-1, 4]"),
        ({}, {"members": "table"}, "'table' (needed by table) is missing"),
    ],
)
def test_mistakes_name_the_input_and_who_needs_it(server, inputs, parameters, complaint):
    answer = infer(server, "mixed", inputs, **parameters)
    assert answer.status == 400
    assert complaint in answer.error


def test_an_image_as_the_body_is_for_members_that_take_no_more(server, wanted):
    file = io.BytesIO()
    Image.fromarray(PIXELS[0]).save(file, "PNG")
    kind = {"Content-Type": "image/png"}
    path = "/v2/models/mixed/infer"
    answer = server.client.post(f"{path}?members=photo", file.getvalue(), kind)
    np.testing.assert_allclose(answer.values, wanted["photo"][:1], **CLOSE)
    for query, complaint in (
        ("", "'table' (needed by table, both) is missing"),
        ("?members=photo,both", "'table' (needed by both) is missing"),
        ("?members=nobody", "has no member 'nobody'"),
        ("?memberz=photo", "there is no parameter 'memberz', did you mean 'members'"),
    ):
        answer = server.client.post(path + query, file.getvalue(), kind)
        assert answer.status == 400
        assert complaint in answer.error


def test_what_metadata_and_configuration_say(server, client):
    described = {one["name"]: one for one in client.metadata("mixed")["inputs"]}
    assert [(one["datatype"], [*map(int, one["shape"])]) for one in described.values()] == [
        ("BYTES", [-1]),
        ("FP32", [-1, COLUMNS]),
    ]
    assert [one["name"] for one in client.metadata("table")["inputs"]] == ["table"]
    config = server.client.get("/v2/models/mixed/config").json()["ensemble"]
    assert config["inputs"] == {"photo": ["image"], "table": ["table"], "both": ["image", "table"]}
    assert "inputs" not in server.client.get("/v2/models/photo/config").json()["ensemble"]


def test_predict_takes_images_and_arrays_together(server, tmp_path, wanted):
    paths = []
    for row in range(ROWS):
        paths.append(str(tmp_path / f"{row}.png"))
        Image.fromarray(PIXELS[row]).save(paths[-1])
    np.savez(tmp_path / "table.npz", table=TABLE)
    np.save(tmp_path / "table.npy", TABLE)

    def run(*arguments):
        return CliRunner().invoke(app, ["predict", "mixed", *arguments, "--url", server.url])

    result = run(*paths, str(tmp_path / "table.npz"), "--json")
    rows = json.loads(result.stdout)["rows"]
    assert [row["input"] for row in rows] == paths
    mean = np.mean([wanted[name] for name in ("photo", "table", "both")], axis=0)
    np.testing.assert_allclose([row["values"] for row in rows], mean, **CLOSE)
    alone = run(str(tmp_path / "table.npz"), "--json", "--members", "table")
    rows = json.loads(alone.stdout)["rows"]
    np.testing.assert_allclose([row["values"] for row in rows], wanted["table"], **CLOSE)
    wrong = run(*paths, str(tmp_path / "table.npy"))
    assert wrong.exit_code == 2
    assert "several inputs, give them by name" in wrong.output


def test_pixels_and_arrays_in_json(server, wanted):
    tensors = [
        {"name": name, "shape": x.shape, "datatype": datatype, "data": x.ravel().tolist()}
        for name, x, datatype in (("table", TABLE, "FP32"), ("image", PIXELS, "UINT8"))
    ]
    answer = server.client.post(
        "/v2/models/mixed/infer", json.dumps({"inputs": tensors}).encode()
    ).values
    mean = np.mean([wanted[name] for name in ("photo", "table", "both")], axis=0)
    np.testing.assert_allclose(answer, mean, **CLOSE)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """Networks of token ids of any length: two have their own ids, one has those of the first."""
    directory = tmp_path_factory.mktemp("tokens")
    slopes = np.array([[0.1, -0.2, 0.3]], np.float32)
    nodes = [
        ("Cast", ["x"], "f", {"to": 1}),
        ("ReduceMean", ["f"], "m", {"axes": [1], "keepdims": 1}),
        ("MatMul", ["m", "w"], "y", {}),
    ]
    for name, symbol in (("first", "seq"), ("second", "seq"), ("third", "other")):
        write_network(
            directory / f"{name}.onnx",
            nodes,
            x=("INT64", [symbol]),
            outputs={"y": "FP32"},
            constants={"w": slopes},
        )
    members = {
        "first": {"inputs": {"x": {"name": "ids", "max_shape": [16]}}},
        "second": {"inputs": {"x": {"name": "other_ids", "max_shape": [64]}}},
        "third": {"inputs": {"x": {"name": "ids", "max_shape": [16]}}},
        "table": {"model": "table.onnx", "inputs": {"x": "table"}},
    }
    write_linear(directory / "table.onnx", WEIGHTS["table"])
    members = {name: {"model": f"{name}.onnx", **one} for name, one in members.items()}
    allocation = {"members": list(members), "devices": ["cpu:0"], "matrix": [[8] * len(members)]}
    (directory / "allocation.json").write_text(json.dumps(allocation))
    config = {
        "members": members,
        "ensembles": {"texts": {"members": list(members)}},
        "devices": devices(1),
        "allocation": "allocation.json",
    }
    with running(config, directory) as server:
        yield server, slopes


def test_two_tokenizers_and_a_table(tokens):
    server, slopes = tokens
    x = {
        "ids": RANDOM.integers(0, 9, (ROWS, 7)),
        "other_ids": RANDOM.integers(0, 9, (ROWS, 40)),
        "table": TABLE,
    }
    own = {
        "first": x["ids"].mean(axis=1, keepdims=True) @ slopes,
        "second": x["other_ids"].mean(axis=1, keepdims=True) @ slopes,
        "third": x["ids"].mean(axis=1, keepdims=True) @ slopes,
        "table": TABLE @ WEIGHTS["table"],
    }
    for url in (server.url, f"grpc://{server.grpc}"):
        with EnsembleClient(url) as client:
            answer = client.predict("texts", x, member_outputs=True)
            for name, values in answer.member_values.items():
                np.testing.assert_allclose(values, own[name], rtol=1e-4, atol=1e-5)
            for members in (["second"], ["first", "third"], ["table"]):
                some = {"second": ["other_ids"], "first": ["ids"], "table": ["table"]}[members[0]]
                given = {name: x[name] for name in some}
                values = client.predict("texts", given, members=members).values
                wanted = np.mean([own[name] for name in members], axis=0)
                np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-5)
