"""Rules through the running server: stacking, users' own functions, and what broken ones do."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from crowd import Load
from onnx import TensorProto, helper, numpy_helper
from serving import configuration, fake

pytestmark = pytest.mark.process

MEMBERS = {"a": fake(0.0), "b": fake(10.0), "c": fake(20.0)}

RULES = """
    import os

    import numpy as np

    def middle(predictions, weights, members):
        return predictions[members.index("b")]

    def picky(predictions, weights, members):
        if (predictions < 0).any():
            raise ValueError("nothing negative, please")
        if (predictions[0] > 1000).any():
            return predictions
        if (predictions[0] > 100).any():
            return predictions[0] * np.nan
        return np.average(predictions, axis=0, weights=weights)

    def hangs(predictions, weights, members):
        while (predictions < 0).any():
            pass
        return predictions[0]

    def dies(predictions, weights, members):
        if (predictions < 0).any():
            os._exit(1)
        return predictions[0]

    def stops(predictions, weights, members):
        if (predictions < 0).any():
            raise SystemExit(1)
        return predictions[0]
"""


@pytest.fixture
def home(tmp_path):
    """A directory of configurations, with a module of rules."""
    (tmp_path / "house_rules.py").write_text(textwrap.dedent(RULES))
    return tmp_path


def write(home, ensemble, members=MEMBERS, more=()):
    """A configuration with an ensemble `all`, and `more` by name."""
    config = configuration(members, ensemble=ensemble)
    for name, other in dict(more).items():
        config["ensembles"][name] = {"members": list(members), **other}
    path = home / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def write_meta(path, shape, outputs=1):
    """A meta-model: output k is the sum of all that its members say, plus k."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"]),
            helper.make_node("ReduceSum", ["flat", "axes"], ["sum"], keepdims=1),
            helper.make_node("Add", ["sum", "k"], ["y"]),
        ],
        "meta",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", *shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
            numpy_helper.from_array(np.arange(outputs, dtype=np.float32), "k"),
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), path)


def check(path):
    """`ensembled check`: its exit status and the lines of stderr."""
    script = str(Path(sys.executable).with_name("ensembled"))
    done = subprocess.run(
        [script, "check", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize("shape", [(6,), (3, 2)])
def test_stacking(home, serve, shape):
    write_meta(home / "meta.onnx", shape, outputs=4)
    server = serve(write(home, {"rule": "stack", "meta": "meta.onnx"}))
    x = np.arange(10, dtype=np.float32).reshape(5, 2)
    wanted = (3 * x.sum(axis=1) + 60)[:, np.newaxis] + np.arange(4)
    answer = server.predict("all", x)
    np.testing.assert_allclose(answer.values, wanted)
    assert answer.members == ["a", "b", "c"]
    outputs = server.client.get("/v2/models/all").json()["outputs"]
    assert outputs == [{"name": "output", "datatype": "FP32", "shape": [-1, 4]}]
    described = server.client.get("/v2/models/all/config").json()["ensemble"]
    assert described["rule"] == "stack"
    shapes = {one["name"]: one["shape"] for one in described["extra_outputs"]}
    assert shapes["output.b"] == [-1, 2]


def test_stacking_answers_with_members_own_predictions_and_scores_beside_it(home, serve):
    write_meta(home / "meta.onnx", (6,))
    server = serve(write(home, {"rule": "stack", "meta": "meta.onnx"}))
    body = {
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}],
        "outputs": [{"name": name} for name in ("output", "output.c", "variance", "member_mask")],
    }
    answer = server.client.http.post("/v2/models/all/infer", json=body).json()
    data = {output["name"]: output["data"] for output in answer["outputs"]}
    assert data["output"] == [69]
    assert data["output.c"] == [21, 22]
    assert data["variance"] == pytest.approx([np.var([0, 10, 20])])
    assert data["member_mask"] == [True] * 3


def test_stacking_needs_all_members(home, serve):
    write_meta(home / "meta.onnx", (6,))
    members = {**MEMBERS, "c": fake(20.0, fail="raise")}
    server = serve(write(home, {"rule": "stack", "meta": "meta.onnx"}, members))
    for wish in ({"members": "a,b"}, {"quorum": 2}):
        answer = server.predict("all", [[1, 2]], **wish)
        assert answer.status == 400
        assert "rule stack of 'all' needs all of its members" in answer.error
    answer = server.predict("all", [[1, 2]], members="c,b,a", quorum=3)
    assert answer.status == 500, "a member failed"
    assert server.predict("a", [[1, 2]]).values.tolist() == [[1, 2]]


def test_a_rule_of_ones_own(home, serve):
    server = serve(write(home, {"rule": "house_rules:middle"}))
    x = np.arange(10, dtype=np.float32).reshape(5, 2)
    np.testing.assert_array_equal(server.predict("all", x).values, x + 10)
    np.testing.assert_array_equal(server.predict("all", x, members="b,c").values, x + 10)
    answer = server.predict("all", x, members="a,c")
    assert answer.status == 500
    assert "rule house_rules:middle: ValueError" in answer.error
    np.testing.assert_array_equal(server.predict("all", x).values, x + 10)
    server.kill("combiner")
    np.testing.assert_array_equal(server.predict("all", x).values, x + 10)


def test_weights_reach_a_rule_of_ones_own(home, serve):
    server = serve(write(home, {"rule": "house_rules:picky", "weights": {"a": 1, "b": 2, "c": 1}}))
    np.testing.assert_allclose(server.predict("all", [[1, 2]]).values, [[11, 12]])
    answer = server.predict("all", [[1, 2]], members="c,b")
    np.testing.assert_allclose(answer.values, [[1 + 40 / 3, 2 + 40 / 3]], rtol=1e-6)


def test_a_rule_that_fails_fails_its_request_and_nothing_else(home, serve):
    more = {"stops": {"rule": "house_rules:stops"}}
    server = serve(write(home, {"rule": "house_rules:picky"}, more=more))
    combiner = server.child("combiner").pid
    for ensemble, x, message in (
        ("all", [[-30, 1]], "rule house_rules:picky: ValueError: nothing negative, please"),
        ("all", [[200, 1]], "rule house_rules:picky: NaN in what it returned"),
        ("all", [[2000, 1]], "house_rules:picky: it returned shape [3, 1, 2], not [1, 2]"),
        ("stops", [[-30, 1]], "rule house_rules:stops: SystemExit: 1"),
    ) * 2:
        answer = server.predict(ensemble, x)
        assert answer.status == 500
        assert answer.error.partition(" (house_rules.py, line ")[0].endswith(message)
        assert server.predict(ensemble, [[1, 2]]).status == 200
        assert server.predict("b", x).status == 200
    assert server.child("combiner").pid == combiner


def test_a_rule_that_hangs_is_interrupted(home, serve):
    server = serve(write(home, {"rule": "house_rules:hangs"}, more={"mean": {}}))
    combiner = server.child("combiner").pid
    assert server.predict("all", [[1, 2]]).status == 200
    first, second = (server.predict("all", [[-1, 2]]) for _ in range(2))
    assert (first.status, second.status) == (500, 500)
    assert first.error.endswith("rule house_rules:hangs: it took more than 1 s")
    assert second.error.endswith("it took more than 1 s a moment ago")
    assert server.predict("mean", [[-1, 2]]).status == 200
    assert server.child("combiner").pid == combiner


def test_a_rule_that_ends_the_combiner_fails_its_own_rows_and_nobody_elses(home, serve):
    server = serve(write(home, {"rule": "house_rules:dies"}, more={"mean": {}}))

    def check(answer, x):
        np.testing.assert_array_equal(answer.values, x + 10)

    with Load(server, "mean", check, clients=2) as load:
        load.wait_answers(5)
        answer = server.predict("all", [[-1, 2]])
        assert answer.status == 500
        assert "house_rules:dies: it has crashed the combiner 3 times" in answer.error
        combiner = server.child("combiner").pid
        assert server.predict("all", [[1, 2]]).status == 500, "it is paused for a while"
        load.wait_answers(5)
        load.stop()
    assert server.child("combiner").pid == combiner


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("nowhere:rule", "there is no module 'nowhere', also not in /"),
        ("house_rules:nothing", "has no 'nothing'"),
        ("house_rules:np", "is not a function"),
        ("house_rules:broken", "called with random predictions [3, 1, 2]: it returned shape [3]"),
    ],
)
def test_a_rule_that_can_not_be_used_is_said_before_the_start(home, rule, problem):
    with (home / "house_rules.py").open("a") as file:
        file.write("\ndef broken(predictions, weights, members):\n    return weights\n")
    status, lines = check(write(home, {"rule": rule}))
    assert status == 2
    assert len(lines) == 1
    assert f"ensembles.all.rule: {rule}: " in lines[0]
    assert problem in lines[0]


def test_a_meta_model_that_does_not_fit_is_said_before_the_start(home):
    path = write(home, {"rule": "stack", "meta": "meta.onnx"})
    for shape in ((5,), (2, 3)):
        write_meta(home / "meta.onnx", shape)
        assert check(path) == (
            2,
            [
                f"error: ensembles.all.meta: the model takes x FP32 {list(shape)}, "
                "not one float input [6] or [3, 2] per row"
            ],
        )
    (home / "meta.onnx").write_bytes(b"this is not ONNX")
    status, lines = check(path)
    assert status == 2
    assert len(lines) == 1
    assert "ensembles.all.meta: onnxruntime can't load it" in lines[0]


def test_built_in_rules(home, serve):
    more = {
        "min": ({"rule": "min"}, [1, 2]),
        "trimmed_mean": ({"rule": "trimmed_mean", "trim": 0.34}, [11, 12]),
        "weighted_vote": ({"rule": "weighted_vote", "weights": [1, 1, 2]}, [0, 1]),
        "rank_average": ({"rule": "rank_average"}, [0, 1]),
        "medoid": ({"rule": "medoid"}, [11, 12]),
    }
    server = serve(write(home, {}, more={name: one for name, (one, _) in more.items()}))
    for name, (_, wanted) in more.items():
        assert server.predict(name, [[1, 2]]).values.tolist() == [wanted]
