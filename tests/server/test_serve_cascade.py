"""Cascades and early answers through a real server: who predicts which row, and what is saved."""

import numpy as np
import pytest
from scipy import special
from scraping import wait_counted
from serving import ask_outputs, configuration, fake, running, wait_for

pytestmark = pytest.mark.process

MEMBERS = ("first", "second", "third")
NEVER_ENDS = 77.0


def logits(**options):
    return {**fake(**options), "output": "logits"}


CASCADE = {
    "members": list(MEMBERS),
    "cascade": [["first"], ["second", "third"]],
    "confidence": [0.9],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    members = {name: logits() for name in MEMBERS}
    members["stuck"] = logits(fail="hang", fail_value=NEVER_ENDS)
    members["shaky"] = logits(fail="raise", fail_value=NEVER_ENDS)
    config = configuration(members, on=2, where={**dict.fromkeys(members, 0), "stuck": 1})
    config["ensembles"] = {
        "cascade": CASCADE,
        "plain": {"members": list(MEMBERS)},
        "doubtful": {
            "members": ["shaky", "second", "third"],
            "quorum": 2,
            "cascade": [["shaky"], ["second"], ["third"]],
            "confidence": [0.9, 0.95],
        },
        "votes": {"members": ["first", "second", "stuck"], "rule": "vote"},
    }
    with running(config, tmp_path_factory.mktemp("cascade")) as server:
        yield server


def rows_of(sureness):
    """Rows whose best class, the second, has these probabilities."""
    p = np.asarray(sureness)
    return np.stack([np.zeros_like(p), np.log(p / (1 - p))], axis=1).astype(np.float32)


def statistics(server, model):
    return server.client.get(f"/v2/models/{model}/stats").json()["model_stats"][0]


def predicted(server):
    return [statistics(server, name)["inference_count"] for name in MEMBERS]


def test_rows_leave_at_their_stage(server):
    wait_counted(server.client)
    before, saved = predicted(server), statistics(server, "cascade")["predictions_saved"]
    sureness = np.array([0.95, 0.6, 0.99, 0.7, 0.92, 0.8, 0.91])
    x = rows_of(sureness)
    parameters, arrays = ask_outputs(server, "cascade", ["output", "member_mask"], x)
    assert parameters == {"members": "first", "degraded": False, "generation": 1}
    np.testing.assert_allclose(arrays["output"], special.softmax(x, axis=1), rtol=1e-5)
    later = sureness < 0.9
    assert arrays["member_mask"].tolist() == [[True, one, one] for one in later]

    def gained():
        return [after - one for after, one in zip(predicted(server), before, strict=True)]

    wait_for(lambda: gained() == [7, 3, 3], "the rows that each member predicted")
    assert statistics(server, "cascade")["predictions_saved"] - saved == 4 * 2


@pytest.mark.parametrize(
    ("outputs", "parameters"),
    [
        (["output", "entropy"], {}),
        (["output.third"], {}),
        (["output", "member_mask"], {"members": "first,second,third"}),
    ],
)
def test_who_asks_for_everybody_is_told_by_everybody(server, outputs, parameters):
    told, _ = ask_outputs(server, "cascade", outputs, rows_of([0.99, 0.99]), **parameters)
    assert told == {"members": "first,second,third", "degraded": False, "generation": 1}


def test_big_requests_go_through_all_stages(server):
    sureness = np.random.default_rng(0).uniform(0.5, 0.999, 3_000)
    x = rows_of(sureness)
    _, arrays = ask_outputs(server, "cascade", ["output", "member_mask"], x)
    np.testing.assert_allclose(arrays["output"], special.softmax(x, axis=1), atol=1e-6)
    clear = np.abs(sureness - 0.9) > 1e-4
    later = arrays["member_mask"][:, 1]
    assert (later == (sureness < 0.9))[clear].all()


def test_a_member_that_fails_is_made_up_for_by_the_next_stage(server):
    x = rows_of([0.99, 0.6])
    x[0, 0] = NEVER_ENDS
    x[0, 1] = NEVER_ENDS - 9
    parameters, arrays = ask_outputs(server, "doubtful", ["output", "member_mask"], x)
    assert parameters == {"members": "second,third", "degraded": True, "generation": 1}
    assert arrays["member_mask"].tolist() == [[False, True, True], [True, True, True]]


def test_the_configuration_tells_the_stages(server):
    ensemble = server.client.get("/v2/models/doubtful/config").json()["ensemble"]
    assert ensemble["cascade"] == [["shaky"], ["second"], ["third"]]
    assert ensemble["confidence"] == [0.9, 0.95]
    assert "cascade" not in server.client.get("/v2/models/plain/config").json()["ensemble"]


def test_a_worker_that_dies_loses_no_stage(server):
    sureness = np.random.default_rng(1).uniform(0.5, 0.999, 500)
    x = rows_of(sureness)
    for _ in range(3):
        server.kill("worker cpu:0")
        _, arrays = ask_outputs(server, "cascade", ["output"], x)
        np.testing.assert_allclose(arrays["output"], special.softmax(x, axis=1), atol=1e-6)
        server.kill("combiner")
        _, arrays = ask_outputs(server, "cascade", ["output"], x)
        np.testing.assert_allclose(arrays["output"], special.softmax(x, axis=1), atol=1e-6)


# -- answers that are certain early ------------------------------------------------------------


def test_the_best_class_alone(server):
    x = rows_of([0.9, 0.2, 0.6])
    for model in ("plain", "cascade", "votes"):
        _, arrays = ask_outputs(server, model, ["class"], x)
        assert arrays["class"].tolist() == [1, 0, 1], model
    parameters, arrays = ask_outputs(server, "plain", ["output", "class"], x)
    assert parameters["members"] == "first,second,third"
    assert arrays["class"].tolist() == [1, 0, 1]


def test_a_majority_does_not_wait_for_a_member_that_hangs(server):
    x = np.array([[NEVER_ENDS, NEVER_ENDS + 3]], np.float32)
    parameters, arrays = ask_outputs(server, "votes", ["class"], x)
    assert parameters == {"members": "first,second", "degraded": False, "generation": 1}
    assert arrays["class"].tolist() == [1]


def test_members_that_are_not_needed_are_not_started(server):
    """The hanging member holds one row at a time: the others never reach it."""
    before = statistics(server, "votes")["predictions_saved"]
    stuck = np.array([[NEVER_ENDS, NEVER_ENDS + 3]], np.float32)
    for _ in range(20):
        ask_outputs(server, "votes", ["class"], stuck)
    assert statistics(server, "votes")["predictions_saved"] > before
