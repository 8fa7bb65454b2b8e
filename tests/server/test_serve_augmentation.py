"""Members that augment at test time, through a real server: against NumPy and ONNX Runtime."""

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

RANDOM = np.random.default_rng(11)
SIZE, RESIZED, CLASSES, ROWS = 8, 12, 3, 4
MEAN, STD = 100.0, 50.0
IMAGE = {"size": SIZE, "crop": SIZE / RESIZED, "mean": MEAN, "std": STD}
#: The resized images: their files have exactly this size.
PIXELS = RANDOM.integers(0, 256, (ROWS, RESIZED, RESIZED, 3), np.uint8)
MARGIN = (RESIZED - SIZE) // 2
MAPS = RANDOM.normal(size=(ROWS, 2, 4, 5)).astype(np.float32)
TABLE = RANDOM.normal(size=(ROWS, 4)).astype(np.float32)
WEIGHTS = {
    "photo": RANDOM.normal(size=(3 * SIZE * SIZE, CLASSES)) / 14,
    "maps": RANDOM.normal(size=(2 * 4 * 5, CLASSES)) / 6,
    "table": RANDOM.normal(size=(4, CLASSES)),
}
FUNCTIONS = """
import numpy as np

def brighter(pixels):
    return np.clip(pixels.astype(np.int16) + 20, 0, 255).astype(np.uint8)

def without_first(rows):
    return np.concatenate([np.zeros_like(rows[:, :1]), rows[:, 1:]], axis=1)
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("augmentation")
    for name, shape in (("photo", [3, SIZE, SIZE]), ("maps", [2, 4, 5])):
        write_network(
            directory / f"{name}.onnx",
            [("Flatten", ["x"], "flat", {"axis": 1}), ("MatMul", ["flat", "w"], "y", {})],
            x=("FP32", shape),
            outputs={"y": "FP32"},
            constants={"w": WEIGHTS[name].astype(np.float32)},
        )
    write_linear(directory / "table.onnx", WEIGHTS["table"])
    (directory / "functions.py").write_text(FUNCTIONS)
    return directory


def write_config(directory, members, ensembles=None):
    allocation = {"members": list(members), "devices": ["cpu:0"], "matrix": [[8] * len(members)]}
    (directory / "allocation.json").write_text(json.dumps(allocation))
    document = {
        "members": members,
        "ensembles": ensembles or {},
        "devices": devices(1),
        "allocation": "allocation.json",
    }
    path = directory / "config.yaml"
    path.write_text(json.dumps(document))
    return path


def photo(*augment, **more):
    return {
        "model": "photo.onnx",
        "input": {"image": IMAGE},
        "output": "logits",
        **({"augment": list(augment)} if augment else {}),
        **more,
    }


def maps(*augment, **more):
    inputs = {"x": "maps"}
    return {
        "model": "maps.onnx",
        "inputs": inputs,
        "output": "logits",
        "augment": augment,
        **more,
    }


MEMBERS = {
    "plain": photo(),
    "same": photo("identity"),
    "crops": photo({"crops": 5}),
    "mirrored": photo({"crops": 10}, augment_rule="median"),
    "mixed": photo("hflip", {"shift": [1, -2]}, {"shift": [0, 4]}, "functions.py:brighter"),
    "maps": maps("identity", "hflip", {"shift": [-1, 2]}),
    "table": {
        "model": "table.onnx",
        "inputs": {"x": "table"},
        "output": "logits",
        "augment": ["identity", "functions:without_first"],
        "augment_rule": "geometric_mean",
    },
}


@pytest.fixture(scope="module")
def server(directory):
    ensembles = {"all": {"members": list(MEMBERS)}}
    with running(write_config(directory, MEMBERS, ensembles), directory) as server:
        yield server


def crop(down=0, right=0):
    """The crop of the resized images in which what they show is moved."""
    top, left = MARGIN - down, MARGIN - right
    return PIXELS[:, top : top + SIZE, left : left + SIZE]


@pytest.fixture(scope="module")
def each(directory):
    """The probabilities of each variant by ONNX Runtime itself, [variants, rows, classes]."""
    corners = [crop(down, right) for down in (2, -2) for right in (2, -2)]
    crops = [*corners, crop()]
    padded = np.pad(PIXELS, [(0, 0), (0, 0), (2, 0), (0, 0)], "edge")
    brighter = np.clip(crop().astype(np.int16) + 20, 0, 255).astype(np.uint8)
    moved = np.pad(MAPS, [(0, 0), (0, 0), (0, 1), (2, 0)], "edge")[:, :, 1:, :-2]
    zeroed = np.where(np.arange(4) > 0, TABLE, 0).astype(np.float32)
    variants = {
        "plain": [crop()],
        "same": [crop()],
        "crops": crops,
        "mirrored": [*crops, *(one[:, :, ::-1] for one in crops)],
        "mixed": [
            crop()[:, :, ::-1],
            crop(1, -2),
            padded[:, MARGIN : MARGIN + SIZE, :SIZE],
            brighter,
        ],
        "maps": [MAPS, MAPS[..., ::-1], moved],
        "table": [TABLE, zeroed],
    }
    found = {}
    for name, views in variants.items():
        file = name if name in {"maps", "table"} else "photo"
        session = onnxruntime.InferenceSession(
            directory / f"{file}.onnx", providers=["CPUExecutionProvider"]
        )
        prepared = views
        if file == "photo":
            scaled = [(one.astype(np.float32) - MEAN) / STD for one in views]
            prepared = [one.transpose(0, 3, 1, 2) for one in scaled]
        feeds = [{"x": np.ascontiguousarray(one)} for one in prepared]
        logits = [session.run(None, feed)[0] for feed in feeds]
        found[name] = special.softmax(np.stack(logits), axis=-1)
    return found


@pytest.fixture(scope="module")
def wanted(each):
    found = {name: p.mean(axis=0) for name, p in each.items()}
    found["mirrored"] = np.median(each["mirrored"], axis=0)
    geometric = np.exp(np.log(each["table"]).mean(axis=0))
    found["table"] = geometric / geometric.sum(axis=1, keepdims=True)
    return found


def encoded(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


FILES = [encoded(one) for one in PIXELS]
ALL = {"image": FILES, "maps": MAPS, "table": TABLE}
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(params=["http", "grpc"])
def client(request, server):
    url = server.url if request.param == "http" else f"grpc://{server.grpc}"
    with EnsembleClient(url) as client:
        yield client


def test_each_member_gives_what_its_variants_give_together(client, wanted):
    answer = client.predict("all", ALL, member_outputs=True)
    for name, values in answer.member_values.items():
        np.testing.assert_allclose(values, wanted[name], **CLOSE, err_msg=name)
    np.testing.assert_allclose(answer.values, np.mean(list(wanted.values()), axis=0), **CLOSE)


def test_a_member_by_itself_and_row_by_row(client, wanted):
    for name, x in (("crops", FILES), ("maps", MAPS), ("table", TABLE)):
        alone = [client.predict(name, x[row : row + 1]).values[0] for row in range(ROWS)]
        np.testing.assert_allclose(alone, wanted[name], **CLOSE)
    same = client.predict("all", {"image": FILES}, members=["same"]).values
    assert (same == client.predict("plain", FILES).values).all(), "to the bit"


def test_how_much_the_variants_vary(client, each):
    names = [f"augmentation_variance.{name}" for name in ("crops", "maps", "same")]
    answer = client.predict("all", ALL, outputs=names, members=["crops", "maps", "same"])
    for name in names:
        values = answer.outputs[name]
        p = each[name.removeprefix("augmentation_variance.")]
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, p.var(axis=0).mean(axis=1), rtol=1e-4, atol=1e-9)
    alone = client.predict("maps", MAPS, outputs=names[1:2]).outputs
    assert (alone[names[1]] == answer.outputs[names[1]]).all()
    with pytest.raises(RequestRejected, match="augmentation_variance.plain"):
        client.predict("all", ALL, outputs=["augmentation_variance.plain"])


def test_more_rows_than_a_batch(client, wanted):
    answer = client.predict("maps", np.tile(MAPS, (9, 1, 1, 1)))
    np.testing.assert_allclose(answer.values, np.tile(wanted["maps"], (9, 1)), **CLOSE)


MISTAKES = {
    "members.m.augment.0: should be identity, hflip, {crops: 5}": maps("hflp"),
    "members.m.augment.0.crops: should be 5 or 10": photo({"crops": 4}),
    "crops are of an image, which this member does not take": maps({"crops": 5}),
    "leaves nothing around it, make it smaller": photo(
        {"crops": 5}, input={"image": {**IMAGE, "crop": 1.0}}
    ),
    "augment_rule is for a member with augment": photo(augment_rule="mean"),
    "only [channels, height, width] can be moved or mirrored, not x FP32 [4]": {
        "model": "table.onnx",
        "augment": ["hflip"],
    },
    "members.m.augment: nowhere:f: there is no module 'nowhere'": photo("nowhere:f"),
    "augment: functions:without_second: module functions": photo("functions:without_second"),
    "augment_rule: vote needs a probability per class": maps(
        "hflip", output="values", augment_rule="vote"
    ),
}


@pytest.mark.parametrize("complaint", MISTAKES)
def test_mistakes_are_found_when_the_configuration_is_checked(directory, complaint, tmp_path):
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = write_config(tmp_path, {"m": MISTAKES[complaint]})
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == 2, result.output
    assert complaint in " ".join(result.output.split())
