"""What a request may ask for: members, a quorum, uncertainty, members' own predictions."""

import numpy as np
import pytest
from scipy import special, stats
from scraping import wait_counted
from serving import ask_outputs, configuration, fake, post_outputs, running, wait_for

pytestmark = pytest.mark.process

NAMES = ("a", "b", "c")
ADD = {"a": 0.0, "b": 6.0, "c": -3.0}
FAILS_ON = -999.0
X = np.array([[1.5, -2.0], [0.0, 8.0], [3.0, 3.5]], np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    members = {name: fake(add) for name, add in ADD.items()}
    members["c"] = fake(ADD["c"], fail="raise", fail_value=FAILS_ON)
    for number in range(3):
        members[f"logits{number}"] = {**fake(number**2), "output": "logits"}
    config = configuration(members, on=2, unknown_parameters="ignore")
    config["ensembles"] = {
        "all": {"members": list(NAMES), "quorum": 2},
        "strict": {"members": list(NAMES)},
        "classes": {"members": [f"logits{number}" for number in range(3)]},
    }
    with running(config, tmp_path_factory.mktemp("outputs")) as server:
        yield server


@pytest.mark.parametrize("names", [["b"], ["c", "a"], ["a", "b", "c"], [" a", "c ", "a"]])
def test_a_request_may_name_members(server, names):
    parameters, arrays = ask_outputs(server, "all", ["output"], X, members=",".join(names))
    wanted = [name for name in NAMES if name in {name.strip() for name in names}]
    assert parameters == {"members": ",".join(wanted), "degraded": False, "generation": 1}
    np.testing.assert_allclose(arrays["output"], X + np.mean([ADD[name] for name in wanted]))


def test_binary_requests_may_name_members_again_and_again(server):
    for _ in range(3):  # from the second on by its plan
        answer = server.predict("all", X, members="a,b")
        assert answer.members == ["a", "b"]
        np.testing.assert_allclose(answer.values, X + 3)


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"members": "a,x"}, "no member 'x'"),
        ({"members": "a", "quorum": 2}, "a quorum of 2 can't be met by 1"),
        ({"quorum": 4}, "a quorum of 4 can't be met by 3"),
        ({"quorum": "2"}, "quorum"),
        ({"members": 1}, "members"),
    ],
)
def test_what_makes_no_sense_is_refused(server, parameters, complaint):
    answer = post_outputs(server, "all", ["output"], X, **parameters)
    assert answer.status == 400
    assert complaint in answer.error


def test_unknown_parameters_pass_where_the_configuration_ignores_them(server):
    parameters, _ = ask_outputs(server, "all", ["output"], X, memberz="a")
    assert parameters["members"] == "a,b,c"


def test_a_request_may_set_its_quorum(server):
    failing = np.array([[FAILS_ON, 0.0]], np.float32)
    parameters, arrays = ask_outputs(server, "strict", ["output"], failing, quorum=2)
    assert parameters == {"members": "a,b", "degraded": True, "generation": 1}
    np.testing.assert_allclose(arrays["output"], failing + 3)
    answer = post_outputs(server, "all", ["output"], failing, quorum=3)
    assert answer.status == 500
    assert "'c'" in answer.error
    parameters, _ = ask_outputs(server, "strict", ["output"], failing, members="a,b")
    assert parameters == {"members": "a,b", "degraded": False, "generation": 1}


def test_members_own_predictions_and_who_is_in_each_row(server):
    x = X.copy()
    x[1, 0] = FAILS_ON
    outputs = ["output.c", "member_mask", "output", "output.a"]
    parameters, arrays = ask_outputs(server, "all", outputs, x)
    assert parameters == {"members": "a,b", "degraded": True, "generation": 1}
    np.testing.assert_allclose(arrays["output.a"], x)
    np.testing.assert_allclose(arrays["output.c"][[0, 2]], x[[0, 2]] - 3)
    assert np.isnan(arrays["output.c"][1]).all()
    assert arrays["member_mask"].tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 1]]
    np.testing.assert_allclose(arrays["output"], x + [[1], [3], [1]])


def test_values_tell_their_variance(server):
    _, arrays = ask_outputs(server, "all", ["variance"], X)
    np.testing.assert_allclose(arrays["variance"], np.full(3, np.var(list(ADD.values()))))
    answer = post_outputs(server, "all", ["entropy"], X)
    assert answer.status == 400
    assert "no output 'entropy', it has output, variance," in answer.error


def test_classes_tell_their_uncertainty(server):
    names = ["entropy", "expected_entropy", "mutual_information", "vote_share", "disagreement"]
    own = [f"output.logits{number}" for number in range(3)]
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    _, arrays = ask_outputs(server, "classes", ["output", *names, *own], x)
    p = np.stack([arrays[name] for name in own])
    np.testing.assert_allclose(p[0], special.softmax(x, axis=1), atol=1e-6)
    total = stats.entropy(p.mean(axis=0), axis=-1)
    expected = stats.entropy(p, axis=-1).mean(axis=0)
    np.testing.assert_allclose(arrays["entropy"], total, atol=1e-5)
    np.testing.assert_allclose(arrays["expected_entropy"], expected, atol=1e-5)
    np.testing.assert_allclose(arrays["mutual_information"], total - expected, atol=1e-5)
    assert arrays["vote_share"].tolist() == [1] * 40, "the same is added to every logit"
    assert arrays["disagreement"].tolist() == [0] * 40


def test_a_big_request_has_its_extras_row_by_row(server):
    x = np.random.default_rng(1).normal(size=(5_000, 2)).astype(np.float32)
    x[::7, 0] = FAILS_ON
    _, arrays = ask_outputs(server, "all", ["output.b", "member_mask", "variance"], x)
    np.testing.assert_allclose(arrays["output.b"], x + 6, rtol=1e-6)
    assert (arrays["member_mask"][:, 2] == (x[:, 0] != FAILS_ON)).all()
    wanted = np.where(x[:, 0] == FAILS_ON, 9.0, np.var(list(ADD.values())))
    np.testing.assert_allclose(arrays["variance"], wanted, rtol=1e-5)


def test_the_configuration_tells_which_outputs_there_are(server):
    ensemble = server.client.get("/v2/models/classes/config").json()["ensemble"]
    names = [output["name"] for output in ensemble["extra_outputs"]]
    assert names[:7] == [
        "class",
        "entropy",
        "expected_entropy",
        "mutual_information",
        "variance",
        "vote_share",
        "disagreement",
    ]
    assert names[7:] == ["member_mask", *(f"output.logits{number}" for number in range(3))]
    metadata = server.client.get("/v2/models/classes").json()
    assert [output["name"] for output in metadata["outputs"]] == ["output"]


# -- statistics --------------------------------------------------------------------------------


def counts(server, model):
    (document,) = server.client.get(f"/v2/models/{model}/stats").json()["model_stats"]
    assert (document["name"], document["version"]) == (model, "1")
    stats = {name: part["count"] for name, part in document["inference_stats"].items()}
    return {**document, **stats}


def test_statistics_count_requests_per_ensemble_and_rows_per_member(server):
    models = ("all", "strict", "a", "c")
    names = ("inference_count", "success", "fail", "queue", "compute_infer")
    wait_counted(server.client)
    before = {model: counts(server, model) for model in models}

    def gained(model):
        after = counts(server, model)
        return tuple(after[name] - before[model][name] for name in names)

    server.predict("all", X)
    server.predict("all", X, binary=False)
    assert server.predict("strict", [[FAILS_ON, 0]]).status == 500
    assert server.client.post("/v2/models/all/infer", b"{}").status == 400
    server.predict("a", X[:1])
    assert gained("all") == (6, 2, 1, 2, 2)
    assert gained("strict") == (0, 0, 1, 0, 0)
    # A worker may tell of its batch after the combiner has told of the answer.
    wait_for(lambda: gained("a") == (8, 8, 0, 8, 8), "the rows of a")
    wait_for(lambda: gained("c") == (6, 6, 1, 7, 6), "the rows of c")
    member = counts(server, "a")
    batches = [batch["compute_infer"]["count"] for batch in member["batch_stats"]]
    assert sum(batches) == member["execution_count"]


def test_statistics_of_all_models(server):
    document = server.client.get("/v2/models/stats").json()
    names = [model["name"] for model in document["model_stats"]]
    assert sorted(names) == sorted(
        ["all", "strict", "classes", *NAMES, "logits0", "logits1", "logits2"]
    )
    one = server.client.get("/v2/models/all/versions/1/stats").json()["model_stats"]
    assert [model["name"] for model in one] == ["all"]
    assert server.client.get("/v2/models/none/stats").status_code == 404
