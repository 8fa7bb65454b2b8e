"""Members with variable dimensions and texts, through a real server and every client."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
import torch
from ensembled_client import EnsembleClient, RequestRejected
from scipy import special
from serving import devices, running

from tests.workers.model_files import quietly, write_hashing_onnx, write_text_onnx

pytestmark = pytest.mark.process

MAX = 512
PADDED = {"input_ids": {"max_shape": [MAX], "pad": 0}, "attention_mask": {"mask": "input_ids"}}
TEXT_MEMBERS = ("a", "b", "c")


class Sums(torch.nn.Module):
    """Sums over two variable dimensions, and its own length."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.sum((1, 2)), (x * 0 + 1).sum((1, 2))], 1)


def export_plane(path):
    sizes = {0: torch.export.Dim("n"), 1: torch.export.Dim("h", max=32), 2: torch.export.Dim("w")}
    program = torch.export.export(Sums(), (torch.zeros(3, 4, 5),), dynamic_shapes=(sizes,))
    torch.export.save(program, path)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("lengths")
    write_text_onnx(directory / "a.onnx", seed=1)
    write_text_onnx(directory / "b.onnx", seed=2, symbol="length")
    write_text_onnx(directory / "c.onnx", seed=3, mask=False)
    write_text_onnx(directory / "tags-a.onnx", outputs=("tokens",), seed=4)
    write_text_onnx(directory / "tags-b.onnx", outputs=("tokens",), seed=5)
    write_hashing_onnx(directory / "texts.onnx")
    quietly(lambda: export_plane(directory / "plane.pt2"))
    return directory


@pytest.fixture(scope="module")
def server(directory):
    members = {
        "a": {"model": "a.onnx", "inputs": PADDED, "output": "logits"},
        "b": {"model": "b.onnx", "inputs": PADDED, "output": "logits", "buckets": [64, 128]},
        "c": {"model": "c.onnx", "inputs": {"input_ids": {"max_shape": [MAX]}}, "output": "logits"},
        **{
            f"{what}-{name}": {
                "model": f"tags-{name}.onnx",
                "inputs": PADDED,
                "output": kind,
                **({"class_axis": -1} if kind == "logits" else {}),
            }
            for name in "ab"
            for what, kind in (("tags", "logits"), ("numbers", "values"))
        },
        "plane": {"model": "plane.pt2", "inputs": {"x": {"max_shape": [32, 24], "pad": 0}}},
        "texts": {"model": "texts.onnx", "inputs": {"x": {"name": "text", "max_bytes": 40}}},
        "fake": {
            "model": "fake",
            "fake": {"inputs": {"x": [-1]}, "outputs": 2, "add": 1},
            "inputs": {"x": {"max_shape": [64]}},
        },
    }
    allocation = {
        "members": list(members),
        "devices": ["cpu:0", "cpu:1"],
        "matrix": [[8] * len(members)] * 2,
    }
    (directory / "allocation.json").write_text(json.dumps(allocation))
    config = {
        "members": members,
        "ensembles": {
            "e": {"members": list(TEXT_MEMBERS)},
            "tags": {"members": ["tags-a", "tags-b"]},
            "numbers": {"members": ["numbers-a", "numbers-b"]},
        },
        "devices": devices(2),
        "allocation": "allocation.json",
    }
    with running(config, directory) as server:
        yield server


@pytest.fixture(scope="module")
def networks(directory):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return {
        name: onnxruntime.InferenceSession(directory / f"{name}.onnx", options)
        for name in TEXT_MEMBERS
    }


def directly(networks, ids, mask=None):
    """The mean of the members' probabilities, by ONNX Runtime itself, without any padding."""
    mask = np.ones_like(ids) if mask is None else mask
    own = [
        special.softmax(
            network.run(
                ["logits"],
                {one.name: {"input_ids": ids}.get(one.name, mask) for one in network.get_inputs()},
            )[0],
            axis=1,
        )
        for network in networks.values()
    ]
    return np.mean(own, axis=0)


def token_rows(seed):
    """Some rows of one random length, with a mask or without."""
    random = np.random.default_rng(seed)
    length = int(np.clip(np.exp(np.log(64) + 0.8 * random.standard_normal()), 1, MAX))
    ids = random.integers(0, 100, (int(random.integers(1, 12)), length))
    mask = (random.random(ids.shape) < 0.7).astype(np.int64)
    mask[:, 0] = 1
    return ids, mask if seed % 2 else None


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_mixed_lengths_at_once_are_exact(server, networks, scheme):
    address = server.url if scheme == "http" else f"grpc://{server.grpc}"

    def check(seed):
        ids, mask = token_rows(seed)
        given = {"input_ids": ids} | ({} if mask is None else {"attention_mask": mask})
        values = client.predict("e", given).values
        np.testing.assert_allclose(values, directly(networks, ids, mask), rtol=1e-6)

    with EnsembleClient(address) as client, ThreadPoolExecutor(8) as pool:
        list(pool.map(check, range(60)))


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_outputs_of_variable_length_are_cut_to_the_rows_own(server, directory, scheme):
    sessions = [onnxruntime.InferenceSession(directory / f"tags-{name}.onnx") for name in "ab"]

    def check(seed):
        ids, _ = token_rows(seed)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        own = np.stack([session.run(["tokens"], feeds)[0] for session in sessions])
        got = client.predict("numbers", {"input_ids": ids}, uncertainty=True, member_outputs=True)
        np.testing.assert_allclose(got.values, own.mean(axis=0), rtol=1e-6)
        np.testing.assert_array_equal(got.member_values["numbers-b"], own[1])
        spread = own.var(axis=0).reshape(len(ids), -1).mean(axis=1)
        np.testing.assert_allclose(got.uncertainty["variance"], spread, rtol=1e-5)
        tags = client.predict("tags", {"input_ids": ids}, uncertainty=True)
        wanted = special.softmax(own, axis=-1).mean(axis=0)
        np.testing.assert_allclose(tags.values, wanted, rtol=1e-5)
        entropy = special.entr(wanted).sum(axis=-1)
        np.testing.assert_allclose(tags.uncertainty["entropy"], entropy, atol=1e-5)

    address = server.url if scheme == "http" else f"grpc://{server.grpc}"
    with EnsembleClient(address) as client, ThreadPoolExecutor(4) as pool:
        list(pool.map(check, range(24)))


def test_json_and_binary_are_equal(server, networks):
    ids = np.arange(30).reshape(2, 15)
    tensor = {"name": "input_ids", "datatype": "INT64", "shape": ids.shape}
    body = json.dumps({"inputs": [{**tensor, "data": ids.tolist()}]}).encode()
    answer = server.client.post("/v2/models/e/infer", body)
    np.testing.assert_allclose(answer.values, directly(networks, ids), rtol=1e-6)


def test_two_dimensions_of_an_exported_program(server):
    def check(size):
        x = np.random.default_rng(size[0]).integers(0, 9, (3, *size)).astype(np.float32)
        values = client.predict("plane", x).values
        np.testing.assert_array_equal(values[:, 0], x.sum((1, 2)))

    sizes = [(h, w) for h in (2, 9, 32) for w in (2, 7, 24)]
    with EnsembleClient(server.url) as client, ThreadPoolExecutor(4) as pool:
        list(pool.map(check, sizes))
        with pytest.raises(RequestRejected, match="dimension 1 should be 1 to 32"):
            client.predict("plane", np.zeros((1, 33, 2), np.float32))


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_texts_of_rows_that_differ_in_length(server, scheme):
    address = server.url if scheme == "http" else f"grpc://{server.grpc}"
    with EnsembleClient(address) as client:
        rows = [["yes", "no"], ["", "y" * 40], ["é", "yes"]]
        assert client.predict("texts", rows).values.tolist() == [[1, 0], [0, 0], [0, 1]]
        again = client.predict("texts", [["no", "yes"], ["y" * 40, ""], ["yes", "é"]])
        assert again.values.tolist() == [[0, 1], [0, 0], [1, 0]], "equal up to the texts"
        with pytest.raises(RequestRejected, match="row 0 has 41 bytes of text, at most 40"):
            client.predict("texts", [["y" * 41, ""]])


def test_texts_in_json(server):
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2, 2]}
    data = [["yes", "no"], ["é", "yes"]]
    body = json.dumps({"inputs": [{**tensor, "data": data}]}).encode()
    assert server.client.post("/v2/models/texts/infer", body).values.tolist() == [[1, 0], [0, 1]]


def test_a_fake_of_variable_size(server):
    with EnsembleClient(server.url) as client:
        assert client.predict("fake", np.float32([[1, 2, 3]])).values.tolist() == [[2, 3]]
        assert client.predict("fake", np.float32([[4], [5]])).values.tolist() == [[5, 5], [6, 6]]


def test_metadata_says_what_varies(server):
    model = server.client.get("/v2/models/e").json()
    assert [one["shape"] for one in model["inputs"]] == [[-1, -1], [-1, -1]]
    config = server.client.get("/v2/models/e/config").json()
    assert [(one["dims"], one.get("optional", False)) for one in config["input"]] == [
        ([-1], False),
        ([-1], True),
    ]
    assert config["ensemble"]["max_shapes"]["input_ids"] == [MAX]


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ([1, MAX + 1], "dimension 1 should be 1 to 512"),
        ([2, 0], "dimension 1 should be 1 to 512"),
        ([4], "'input_ids' has shape [-1, -1], the request has [4]"),
        ([1, 4, 1], "'input_ids' has shape [-1, -1], the request has [1, 4, 1]"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(server, shape, complaint):
    data = [1] * int(np.prod(shape))
    tensor = {"name": "input_ids", "datatype": "INT64", "shape": shape, "data": data}
    answer = server.client.post("/v2/models/e/infer", json.dumps({"inputs": [tensor]}).encode())
    assert answer.status == 400
    assert complaint in answer.error


def test_counters_are_of_all_length_classes(server):
    before = member_rows(server)
    with EnsembleClient(server.url) as client:
        for length in (1, 100, MAX):
            client.predict("c", np.ones((2, length), np.int64))
    assert member_rows(server) - before == 6


def member_rows(server):
    lines = server.client.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith('ensembled_member_rows_total{member="c"}')]
    (line,) = found
    return float(line.split()[-1])
