"""Members and ensembles with several outputs: rules of their own, other shapes, every protocol."""

import json
import textwrap

import numpy as np
import onnx
import pytest
from ensembled_client import EnsembleClient
from ensembled_client.wire import HEADER_LENGTH
from onnx import TensorProto, helper
from scipy import special
from serving import Answer, ask_outputs, configuration, post_outputs, running, wait_for

pytestmark = pytest.mark.process

SHAPES = {"logits": [3], "embedding": [2, 2], "boxes": [2, 4]}
POISON = -999.0
ADD = {"a": 0.0, "b": 2.0}
X = np.array([[1, 2, 5, 3], [0, -1, 1, 4]], np.float32)
RULES = """
    import numpy as np

    def spread(predictions, weights, members):
        mean, std = predictions.mean(axis=(0, 2, 3)), predictions.std(axis=(0, 2, 3))
        return {"centre": mean, "std": std, "interval": np.stack([mean - std, mean + std], axis=1)}
"""


def raw(name, rows=X):
    """What a fake gives in its output of a name."""
    shape = SHAPES[name]
    flat = np.concatenate([rows, rows, rows], axis=1)[:, : int(np.prod(shape))]
    return {member: (flat + add).reshape(len(rows), *shape) for member, add in ADD.items()}


def member(add, **failing):
    made = {"inputs": {"x": [4]}, "outputs": SHAPES, "add": add, **failing}
    outputs = {"logits": {"name": "classes", "as": "logits"}, "embedding": {"as": "values"}}
    outputs["boxes"] = {"max_shape": [3, 4]}
    return {"model": "fake", "fake": made, "outputs": outputs}


def write_maps(path):
    """A network that gives its input [n, 3, 2, 2] as logits."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "maps",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3, 2, 2))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 3, 2, 2))],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), path)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("several")
    (directory / "spreading.py").write_text(textwrap.dedent(RULES))
    write_maps(directory / "maps.onnx")
    members = {
        "a": member(ADD["a"]),
        "b": member(ADD["b"], fail="raise", fail_value=POISON),
        "bits": {
            "model": "fake",
            "fake": {"inputs": {"x": [4]}, "outputs": 1},
            "output": "binary_logits",
        },
        "two": {"model": "fake", "fake": {"inputs": {"x": [4]}, "outputs": 2}, "output": "logits"},
    }
    maps = {"model": "maps.onnx", "output": "logits", "class_axis": 1}
    members |= {"m": maps, "n": {**maps, "temperature": 2}}
    config = configuration(members, on=1)
    both = {"members": ["a", "b"]}
    config["ensembles"] = {
        "all": {**both, "rule": {"classes": "mean", "embedding": "none", "boxes": "max"}},
        "quorum": {**both, "quorum": 1},
        "spread": {**both, "rule": {"embedding": "spreading:spread", "classes": "vote"}},
        "own": {**both, "rule": {"embedding": "spreading:spread"}},
        "staged": {**both, "cascade": [["a"], ["b"]], "confidence": [0.9], "quorum": 1},
        "mixed": {"members": ["bits", "two"]},
        "maps": {"members": ["m", "n"]},
    }
    with running(config, directory) as server:
        yield server


def softmax(values):
    return special.softmax(values, axis=1)


def combined():
    shares = {name: softmax(values) for name, values in raw("logits").items()}
    return np.mean(list(shares.values()), axis=0)


def padded(boxes):
    return np.concatenate([boxes, np.zeros((len(boxes), 1, 4))], axis=1)


def test_without_a_wish_there_are_all_outputs(server):
    for names in ([], ["classes", "boxes"]):
        _, arrays = ask_outputs(server, "all", names, X)
        assert list(arrays) == ["classes", "boxes"]
        np.testing.assert_allclose(arrays["classes"], combined(), rtol=1e-5)
        np.testing.assert_allclose(arrays["boxes"], padded(raw("boxes")["b"]))
    _, arrays = ask_outputs(server, "quorum", [], X)
    assert list(arrays) == ["classes", "embedding", "boxes"], "a plain rule is for all"
    np.testing.assert_allclose(arrays["embedding"], raw("embedding")["a"] + 1)
    _, arrays = ask_outputs(server, "b", [], X)
    assert list(arrays) == ["classes", "embedding", "boxes"]
    np.testing.assert_allclose(arrays["boxes"], padded(raw("boxes")["b"]))


def test_outputs_and_what_members_predict_of_them(server):
    names = ["output", "embedding.b", "boxes.a", "class", "output.a", "classes.b", "entropy"]
    _, arrays = ask_outputs(server, "all", names, X)
    np.testing.assert_allclose(arrays["output"], combined(), rtol=1e-5)
    np.testing.assert_array_equal(arrays["class"], combined().argmax(axis=1))
    np.testing.assert_allclose(arrays["embedding.b"], raw("embedding")["b"])
    np.testing.assert_allclose(arrays["boxes.a"], padded(raw("boxes")["a"]))
    for name in ("output.a", "classes.b"):
        np.testing.assert_allclose(arrays[name], softmax(raw("logits")[name[-1]]), rtol=1e-5)
    refused = post_outputs(server, "all", ["embedding"], X)
    assert "has no output 'embedding', it has classes, boxes, class," in refused.error


@pytest.mark.parametrize("names", [["classes"], ["output"], []])
def test_binary_requests_have_plans(server, names):
    document = {
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": list(X.shape),
                "parameters": {"binary_data_size": X.nbytes},
            }
        ],
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": name} for name in names],
    }
    header = json.dumps(document).encode()
    for factor in (1, 2, 3):
        body = header + (X * np.float32(factor)).tobytes()
        answer = server.client.post("/v2/models/all/infer", body, {HEADER_LENGTH: str(len(header))})
        described = [(one["name"], one["shape"]) for one in answer.json["outputs"]]
        assert described == [(name, [2, 3]) for name in names] or not names
        classes = np.frombuffer(answer.raw[:24], np.float32).reshape(2, 3)
        np.testing.assert_allclose(classes, softmax(raw("logits", X * factor)["a"]), rtol=1e-5)
        assert len(answer.raw) == (24 if names else 24 + 2 * 12 * 4)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_clients_have_further_outputs(server, protocol):
    url = server.url if protocol == "http" else f"grpc://{server.grpc}"
    with EnsembleClient(url) as client:
        for _ in range(2):
            prediction = client.predict("all", X, member_outputs=True)
            np.testing.assert_allclose(prediction.values, combined(), rtol=1e-5)
            assert prediction.outputs["boxes"].shape == (2, 3, 4)
            np.testing.assert_allclose(
                prediction.member_values["b"], softmax(raw("logits")["b"]), rtol=1e-5
            )
        chosen = client.predict("all", X, outputs=["embedding.a"])
        assert set(chosen.outputs) == {"output", "embedding.a"}
        described = client.metadata("spread")["outputs"]
        assert [(one["name"], [int(size) for size in one["shape"]]) for one in described] == [
            ("classes", [-1, 3]),
            ("centre", [-1]),
            ("std", [-1]),
            ("interval", [-1, 2]),
        ]


def test_a_rule_of_ones_own_may_yield_several_outputs(server):
    values = np.stack([*raw("embedding").values()]).reshape(2, 2, 4)
    centre, std = values.mean(axis=(0, 2)), values.std(axis=(0, 2))
    for model, names in (("spread", ["interval", "std"]), ("own", [])):
        _, arrays = ask_outputs(server, model, names, X)
        np.testing.assert_allclose(arrays["std"], std, rtol=1e-5)
        wanted = np.stack([centre - std, centre + std], axis=1)
        np.testing.assert_allclose(arrays["interval"], wanted, rtol=1e-5, atol=1e-6)
    _, arrays = ask_outputs(server, "own", ["output", "classes.a"], X)
    np.testing.assert_allclose(arrays["output"], centre, rtol=1e-5)
    np.testing.assert_allclose(arrays["classes.a"], softmax(raw("logits")["a"]), rtol=1e-5)


def test_a_quorum_applies_to_all_outputs(server):
    failing = np.array([[POISON, 1, 2, 3]], np.float32)
    parameters, arrays = ask_outputs(server, "quorum", ["boxes", "embedding.b", "output"], failing)
    assert parameters == {"members": "a", "degraded": True, "generation": 1}
    np.testing.assert_allclose(arrays["boxes"], padded(raw("boxes", failing)["a"]))
    assert np.isnan(np.array(arrays["embedding.b"], float)).all()
    answer = post_outputs(server, "all", ["boxes"], failing)
    assert answer.status == 500


def test_a_cascade_ends_by_its_main_output(server):
    sure = np.array([[0, 0, 9, 0], [1, 1, 1, 0]], np.float32)
    for row, members in zip(sure, ("a", "a,b"), strict=True):
        parameters, arrays = ask_outputs(server, "staged", ["embedding"], row[np.newaxis])
        assert parameters["members"] == members
        wanted = raw("embedding", row[np.newaxis])["a"] + (members != "a")
        np.testing.assert_allclose(arrays["embedding"], wanted)


def test_one_column_votes_beside_two(server):
    _, arrays = ask_outputs(server, "mixed", ["output", "output.bits"], X)
    p = special.expit(X[:, :1])
    bits = np.concatenate([1 - p, p], axis=1)
    np.testing.assert_allclose(arrays["output.bits"], bits, rtol=1e-5)
    np.testing.assert_allclose(arrays["output"], (bits + softmax(X[:, :2])) / 2, rtol=1e-5)


def test_maps_have_a_class_and_scores_at_each_point(server):
    rows = np.random.default_rng(0).normal(size=(2, 3, 2, 2)).astype(np.float32)
    names = ["output", "class", "entropy", "output.n"]
    _, arrays = ask_outputs(server, "maps", names, rows)
    members = [softmax(rows), softmax(rows / 2)]
    mean = np.mean(members, axis=0)
    np.testing.assert_allclose(arrays["output"], mean, rtol=1e-5)
    np.testing.assert_allclose(arrays["output.n"], members[1], rtol=1e-5)
    np.testing.assert_array_equal(arrays["class"], mean.argmax(axis=1))
    np.testing.assert_allclose(arrays["entropy"], special.entr(mean).sum(axis=1), rtol=1e-5)


def test_a_new_combiner_and_a_new_worker_know_all_outputs(server):
    for role in ("combiner", "worker cpu:0"):
        server.kill(role)

        def answered() -> Answer | None:
            answer = post_outputs(server, "all", [], X)
            return answer if answer.status == 200 else None

        answer = wait_for(answered, "an answer")
        assert [one["name"] for one in answer.json["outputs"]] == ["classes", "boxes"]
        np.testing.assert_allclose(
            answer.json["outputs"][1]["data"], padded(raw("boxes")["b"]).ravel(), rtol=1e-5
        )
