"""What members mean, through a real server: types, shapes, classes by label, shared members."""

import json
import re

import numpy as np
import pytest
import torch
from networks import write_linear, write_network
from scipy import special
from serving import devices, fake, running, title, wait_for

from tests.workers.model_files import quietly

pytestmark = pytest.mark.process

GENERATOR = np.random.default_rng(5)
NETWORKS = ("half", "single", "double", "torch", "brain", "script")
WEIGHTS = {name: GENERATOR.normal(size=(4, 3)) for name in NETWORKS}
#: How far a prediction may be from one in double precision.
TOLERANCES = {"single": 1e-6, "double": 1e-6, "brain": 5e-2}
X = GENERATOR.normal(size=(7, 4)).astype(np.float32)


def ask(server, model, x, outputs=("output",), datatype="FP32", **output):
    """Ask for outputs of ``x`` in JSON: the response's outputs by name, or the error."""
    x = np.asarray(x)
    tensor = {"name": "x", "shape": x.shape, "datatype": datatype, "data": x.ravel().tolist()}
    document = {
        "inputs": [tensor],
        "outputs": [
            {"name": name, **({"parameters": output} if output else {})} for name in outputs
        ],
    }
    answer = server.client.post(f"/v2/models/{model}/infer", json.dumps(document).encode())
    if answer.status != 200:
        return answer.error
    return {
        one["name"]: np.array(one["data"]).reshape(one["shape"]) for one in answer.json["outputs"]
    }


def write_config(directory, members, ensembles):
    """Write a configuration that places every member on one device, unmeasured."""
    allocation = {"members": list(members), "devices": ["cpu:0"], "matrix": [[8] * len(members)]}
    (directory / "allocation.json").write_text(json.dumps(allocation))
    document = {
        "members": members,
        "ensembles": ensembles,
        "devices": devices(1),
        "allocation": "allocation.json",
    }
    path = directory / "config.yaml"
    path.write_text(json.dumps(document))
    return path


# -- types and shapes --------------------------------------------------------------------------


def linear(name, dtype):
    """A layer of torch with the weights of that name."""
    layer = torch.nn.Linear(4, 3, bias=False, dtype=dtype)
    layer.weight = torch.nn.Parameter(torch.from_numpy(WEIGHTS[name].T.copy()).to(dtype))
    return layer


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("networks")
    write_linear(directory / "half.onnx", WEIGHTS["half"], datatype="FP16")
    write_linear(directory / "single.onnx", WEIGHTS["single"])
    write_linear(directory / "double.onnx", WEIGHTS["double"], datatype="FP64")
    for name, dtype in (("torch", torch.float16), ("brain", torch.bfloat16)):
        program = torch.export.export(
            linear(name, dtype),
            (torch.zeros(3, 4, dtype=dtype),),
            dynamic_shapes=({0: torch.export.Dim("n")},),
        )
        torch.export.save(program, directory / f"{name}.pt2")
    script = linear("script", torch.float16)
    quietly(lambda: torch.jit.save(torch.jit.script(script), directory / "script.ts"))
    best = ("ArgMax", ["x"], "y", {"axis": 1, "keepdims": 0})
    write_network(directory / "best.onnx", [best], x=("FP32", [4]), outputs={"y": "INT64"})
    worst = ("ArgMin", ["x"], "y", {"axis": 1, "keepdims": 1})
    write_network(directory / "worst.onnx", [worst], x=("FP32", [4]), outputs={"y": "INT64"})
    for name, operator in (("plus", "Identity"), ("minus", "Neg")):
        for shape in ([], [2, 3], [6]):
            write_network(
                directory / f"{name}{len(shape)}.onnx",
                [(operator, ["x"], "y", {}), ("Exp", ["x"], "z", {})],
                x=("FP32", shape),
                outputs={"y": "FP32", "z": "FP32"},
            )
    return directory


@pytest.fixture(scope="module")
def networks(files, tmp_path_factory):
    """Members of four types over one input; members of three shapes, each an input of its own."""
    sent = {"x": {"datatype": "FP32"}}
    members = {
        "half": {"model": "half.onnx", "inputs": sent, "output": "logits"},
        "single": {"model": "single.onnx", "output": "logits", "temperature": 2.0},
        "double": {"model": "double.onnx", "inputs": sent, "output": "logits"},
        "torch": {
            "model": "torch.pt2",
            "inputs": {"input": {"name": "x", **sent["x"]}},
            "output": "logits",
        },
        "brain": {
            "model": "brain.pt2",
            "inputs": {"input": {"name": "x", **sent["x"]}},
            "output": "logits",
        },
        "script": {
            "model": "script.ts",
            "inputs": {"x": {"datatype": "FP32", "model_datatype": "FP16", "shape": [4]}},
            "output": "logits",
        },
        "half_itself": {"model": "half.onnx", "output": "values"},
        "best": {"model": "best.onnx", "output": "class", "classes": 4},
        "worst": {"model": "worst.onnx", "output": "class", "classes": 4},
    }
    for name in ("plus", "minus"):
        for rank in range(3):
            members[f"{name}{rank}"] = {"model": f"{name}{rank}.onnx", "output_name": "y"}
    members["exp1"] = {"model": "plus1.onnx", "output_name": "z"}
    ensembles = {
        "types": {"members": list(NETWORKS)},
        "ballots": {"members": ["best", "worst"], "rule": "vote"},
        "numbers": {"members": ["plus0", "minus0"], "rule": "max"},
        "maps": {"members": ["minus2", "plus2"], "rule": "weighted_mean", "weights": [1, 3]},
        "embeddings": {"members": ["plus1", "minus1", "exp1"]},
    }
    path = write_config(files, members, ensembles)
    with running(path, tmp_path_factory.mktemp("server")) as server:
        yield server


def predicted(name, temperature=1.0):
    return special.softmax(X.astype(float) @ WEIGHTS[name] / temperature, axis=1)


def test_members_of_different_types_are_combined(networks):
    outputs = ["output", *(f"output.{name}" for name in WEIGHTS)]
    answer = ask(networks, "types", X, outputs)
    wanted = {name: predicted(name, 2.0 if name == "single" else 1.0) for name in WEIGHTS}
    for name in WEIGHTS:
        atol = TOLERANCES.get(name, 5e-3)
        np.testing.assert_allclose(answer[f"output.{name}"], wanted[name], rtol=0, atol=atol)
    own = [answer[f"output.{name}"] for name in WEIGHTS]
    np.testing.assert_allclose(answer["output"], np.mean(own, axis=0), rtol=1e-6)
    metadata = networks.client.get("/v2/models/types").json()
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]


def test_a_member_in_half_precision_by_itself(networks):
    metadata = networks.client.get("/v2/models/half_itself").json()
    assert metadata["inputs"][0]["datatype"] == "FP16"
    assert metadata["outputs"][0]["datatype"] == "FP32"
    whole = np.arange(8).reshape(2, 4).astype(np.float16)
    request = {
        "inputs": [
            {
                "name": "x",
                "shape": [2, 4],
                "datatype": "FP16",
                "parameters": {"binary_data_size": whole.nbytes},
            }
        ]
    }
    head = json.dumps(request).encode()
    answer = networks.client.post(
        "/v2/models/half_itself/infer",
        head + whole.tobytes(),
        {"Inference-Header-Content-Length": str(len(head))},
    )
    np.testing.assert_allclose(answer.values, whole @ WEIGHTS["half"], rtol=1e-2, atol=1e-2)


def test_what_is_too_large_for_half_precision_fails_that_member_alone(networks):
    huge = np.array([[1e6, 1e6, 1e6, 1e6]], np.float32)
    # In a member's own words, or by name if the row ended before these came.
    assert re.match("member '(half|torch|script)'.* failed", ask(networks, "types", huge))
    document = {
        "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1e6] * 4}],
        "parameters": {"quorum": 2},
    }
    answer = networks.client.post("/v2/models/types/infer", json.dumps(document).encode())
    assert {"single", "double", "brain"} <= set(answer.members)
    assert "half" not in answer.members


def test_indices_of_classes_are_votes(networks):
    x = np.array([[1, 2, 3, 0], [9, 1, 2, 3]], np.float32)
    answer = ask(networks, "ballots", x, ["output", "output.worst", "vote_share"])
    np.testing.assert_allclose(answer["output"], [[0, 0, 0.5, 0.5], [0.5, 0.5, 0, 0]], rtol=1e-6)
    assert answer["output.worst"].tolist() == [[0, 0, 0, 1], [0, 1, 0, 0]]
    assert answer["vote_share"].tolist() == [0.5, 0.5]


def test_one_number_per_row(networks):
    assert ask(networks, "numbers", [1, -2, 3.5])["output"].tolist() == [1, 2, 3.5]
    metadata = networks.client.get("/v2/models/numbers").json()
    assert metadata["outputs"][0]["shape"] == [-1]


def test_a_map_per_row(networks):
    x = GENERATOR.normal(size=(40, 2, 3)).astype(np.float32)
    answer = ask(networks, "maps", x, ["output", "output.minus2", "variance"])
    np.testing.assert_allclose(answer["output"], x / 2, rtol=1e-6)
    np.testing.assert_allclose(answer["output.minus2"], -x, rtol=1e-6)
    np.testing.assert_allclose(answer["variance"], (x**2).mean(axis=(1, 2)), rtol=1e-5)


def test_embeddings_and_one_of_several_outputs(networks):
    x = GENERATOR.normal(size=(5, 6)).astype(np.float32)
    np.testing.assert_allclose(ask(networks, "embeddings", x)["output"], np.exp(x) / 3, rtol=1e-5)
    np.testing.assert_allclose(ask(networks, "exp1", x)["output"], np.exp(x), rtol=1e-6)


# -- classes -----------------------------------------------------------------------------------

CLASSES = {"a": "cat dog bird", "b": "bird cat dog", "c": "fish cat", "d": "bird cat dog"}
SHARES = np.array([[0.5, 0.375, 0.125], [0.25, 0.25, 0.5]], np.float32)
FAILS_ON = 0.03125


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """Fakes that answer with what they are sent, which they call by different names."""
    directory = tmp_path_factory.mktemp("animals")
    members = {}
    for name, labels in CLASSES.items():
        (directory / f"{name}.txt").write_text("\n".join(labels.split()) + "\n")
        members[name] = {
            **fake(inputs=3, outputs=len(labels.split())),
            "output": "probabilities",
            "labels": f"{name}.txt",
        }
    members["d"]["fake"] |= {"fail": "nan", "fail_value": FAILS_ON}
    (directory / "own.txt").write_text("fish\ndog\ncat\n")
    ensembles = {
        "union": {"members": ["a", "b", "c"]},
        "own": {"members": ["a", "b", "c"], "labels": "own.txt", "rule": "max"},
        "votes": {"members": ["c", "b", "a"], "rule": "vote"},
        "same": {"members": ["b", "d"], "quorum": 1},
        "mixed": {"members": ["d", "a"], "quorum": 1},
    }
    path = write_config(directory, members, ensembles)
    with running(path, tmp_path_factory.mktemp("server")) as server:
        yield server


def wanted_shares(member, row, labels):
    known = dict(zip(CLASSES[member].split(), SHARES[row].tolist(), strict=False))
    return np.array([known.get(label, 0.0) for label in labels.split()])


@pytest.mark.parametrize(
    ("model", "labels", "members", "rule"),
    [
        ("union", "cat dog bird fish", "abc", np.mean),
        ("own", "fish dog cat", "abc", np.max),
        ("same", "bird cat dog", "bd", np.mean),
        ("mixed", "bird cat dog", "da", np.mean),
    ],
)
def test_classes_are_matched_by_label(animals, model, labels, members, rule):
    outputs = ["output", "variance", *(f"output.{name}" for name in members)]
    answer = ask(animals, model, SHARES, outputs)
    for row in range(len(SHARES)):
        own = np.array([wanted_shares(name, row, labels) for name in members])
        np.testing.assert_allclose(answer["output"][row], rule(own, axis=0), rtol=1e-6)
        np.testing.assert_allclose(answer["variance"][row], np.var(own, axis=0).mean(), rtol=1e-5)
        for name, shares in zip(members, own, strict=True):
            np.testing.assert_array_equal(answer[f"output.{name}"][row], shares)
    config = animals.client.get(f"/v2/models/{model}/config").json()
    assert config["ensemble"]["labels"] == labels.split()


def test_votes_and_classifications_are_of_the_ensembles_classes(animals):
    best = {"a": ["cat", "bird"], "b": ["bird", "dog"], "c": ["fish", "fish"]}
    answer = ask(animals, "votes", SHARES)["output"]
    labels = ["fish", "cat", "bird", "dog"]
    for row in range(2):
        votes = [labels.index(best[name][row]) for name in "abc"]
        np.testing.assert_allclose(answer[row], np.bincount(votes, minlength=4) / 3, rtol=1e-6)
    texts = ask(animals, "union", SHARES[:1], ["output.c"], classification=2)["output.c"]
    assert [text.split(":")[1:] for text in texts[0]] == [["3", "fish"], ["0", "cat"]]


def test_a_member_by_itself_keeps_its_own_classes(animals):
    for name, labels in CLASSES.items():
        width = len(labels.split())
        np.testing.assert_array_equal(ask(animals, name, SHARES)["output"], SHARES[:, :width])
        config = animals.client.get(f"/v2/models/{name}/config").json()
        assert config["ensemble"]["labels"] == labels.split()


@pytest.mark.parametrize(("model", "other"), [("same", "b"), ("mixed", "a")])
def test_a_member_that_answers_nan_is_left_out(animals, model, other):
    x = SHARES.copy()
    x[0, 0] = FAILS_ON
    answer = ask(animals, model, x, ["output", f"output.{other}", "output.d", "member_mask"])
    np.testing.assert_array_equal(answer["output"][0], answer[f"output.{other}"][0])
    assert np.isnan(answer["output.d"].astype(float)).any(axis=1).tolist() == [True, False]
    assert answer["member_mask"].sum(axis=1).tolist() == [1, 2]


# -- many ensembles over shared members ---------------------------------------------------------


def test_ensembles_share_instances_and_inputs_live_side_by_side(serve):
    wide = {"model": "fake", "fake": {"inputs": {"z": [3]}, "outputs": 2, "add": 5}}
    config = {
        "members": {"a": fake(1), "b": fake(3), "c": fake(8), "wide": wide},
        "ensembles": {
            "ab": {"members": ["a", "b"]},
            "bc": {"members": ["c", "b"], "rule": "max"},
            "abc": {"members": ["a", "b", "c"], "rule": "median"},
            "alone": {"members": ["wide"]},
        },
        "devices": devices(1),
        "allocation": {
            "members": ["a", "b", "c", "wide"],
            "devices": ["cpu:0"],
            "matrix": [[4, 4, 4, 4]],
        },
    }
    server = serve(config)
    x = np.array([[1, 2]], np.float32)
    added = {"ab": 2, "bc": 8, "abc": 3, "a": 1, "b": 3, "c": 8}
    for model, add in added.items():
        np.testing.assert_allclose(server.predict(model, x).values, x + add)
        np.testing.assert_allclose(server.predict("alone", [[1, 2, 3]], name="z").values, [[6, 7]])
    answer = server.predict("abc", x, members="a,c")
    np.testing.assert_allclose(answer.values, x + 4.5)
    assert answer.members == ["a", "c"]

    def count(name):
        (stats,) = server.client.get(f"/v2/models/{name}/stats").json()["model_stats"]
        return stats["inference_count"], stats["execution_count"]

    # Of itself, and of every ensemble that it belongs to: one instance serves them all.
    for name, number in {"a": 4, "b": 4, "c": 4, "wide": 6}.items():
        wait_for(lambda name=name, number=number: count(name) == (number, number), f"{name}'s rows")
    places = server.client.get("/v2/models/abc/config").json()["allocation"]
    assert places == {"cpu:0": {"a": 4, "b": 4, "c": 4}}
    assert len([child for child in server.children() if "worker" in title(child)]) == 1
    assert server.stderr.count("a x4, b x4, c x4, wide x4") == 1
