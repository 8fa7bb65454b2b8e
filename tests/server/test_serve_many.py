"""As many members as there may be: masks of 64 bits through a real server."""

import numpy as np
import pytest
from scipy import special
from serving import ask_outputs, configuration, fake, running

pytestmark = pytest.mark.process

MEMBERS = tuple(f"m{i}" for i in range(64))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    members = {name: {**fake(batch_size=4), "output": "logits"} for name in MEMBERS}
    members["m63"] = {**fake(batch_size=4, fail="raise", fail_value=77.0), "output": "logits"}
    config = configuration(members, on=1, where=dict.fromkeys(members, 0))
    config["ensembles"] = {
        "all": {"members": list(MEMBERS)},
        "some": {"members": list(MEMBERS), "policy": "best-effort", "rule": "vote"},
        "last_first": {
            "members": list(MEMBERS),
            "cascade": [["m63"], list(MEMBERS[:32]), list(MEMBERS[32:63])],
            "confidence": [0.9, 0.8],
        },
        "singly": {
            "members": list(MEMBERS),
            "cascade": [[name] for name in reversed(MEMBERS)],
            "confidence": [0.9] * 63,
        },
    }
    with running(config, tmp_path_factory.mktemp("many")) as server:
        yield server


X = np.array([[0, 4], [0.5, 0], [0, 0.1]], np.float32)


def test_all_answer(server):
    outputs = ["output", "member_mask", "output.m63", "output.m0", "vote_share"]
    told, arrays = ask_outputs(server, "all", outputs, X)
    assert told == {"members": ",".join(MEMBERS), "degraded": False, "generation": 1}
    assert arrays["member_mask"].all()
    for name in ("output", "output.m63", "output.m0"):
        np.testing.assert_allclose(arrays[name], special.softmax(X, axis=1), rtol=1e-5)
    assert arrays["vote_share"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("members", ["m63", "m0,m63", "m62"])
def test_some_are_asked(server, members):
    told, arrays = ask_outputs(server, "all", ["output", "member_mask"], X, members=members)
    assert told == {"members": members, "degraded": False, "generation": 1}
    wanted = [name in members.split(",") for name in MEMBERS]
    assert arrays["member_mask"].tolist() == [wanted] * 3


def test_the_last_may_fail(server):
    x = X.copy()
    x[1, 0] = 77.0
    told, arrays = ask_outputs(server, "some", ["output", "member_mask", "output.m63"], x)
    assert told == {"members": ",".join(MEMBERS[:63]), "degraded": True, "generation": 1}
    assert arrays["member_mask"].sum() == 3 * 64 - 1
    assert np.isnan(arrays["output.m63"]).tolist() == [[False] * 2, [True] * 2, [False] * 2]


def test_the_best_class_alone(server):
    for model in ("all", "some"):
        told, arrays = ask_outputs(server, model, ["class"], X)
        assert arrays["class"].tolist() == [1, 0, 1]
        assert not told["degraded"]


def test_a_cascade_with_the_last_first(server):
    told, arrays = ask_outputs(server, "last_first", ["output", "member_mask"], X)
    assert told == {"members": "m63", "degraded": False, "generation": 1}
    assert arrays["member_mask"].sum(axis=1).tolist() == [1, 64, 64]
    np.testing.assert_allclose(arrays["output"], special.softmax(X, axis=1), rtol=1e-5)


def test_a_cascade_of_64_stages(server):
    _, arrays = ask_outputs(server, "singly", ["output", "member_mask"], X)
    assert arrays["member_mask"].sum(axis=1).tolist() == [1, 64, 64]
    x = X.copy()
    x[1, 0] = 77.0
    _, arrays = ask_outputs(server, "singly", ["output", "member_mask"], x, quorum=2)
    assert arrays["member_mask"].sum(axis=1).tolist()[0] == 1
    assert not arrays["member_mask"][1, 63]
