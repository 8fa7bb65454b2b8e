"""Roll-outs in the whole server: who answers, what is compared, and how they end."""

import json

import numpy as np
import pytest
import yaml
from scraping import Scrape
from serving import Client, configuration, fake, post_outputs, wait_for

pytestmark = pytest.mark.process

X = np.array([[0.0, 5.0], [1.0, 7.0]], np.float32)
ADDED = {"1": 1.0, "2": 2.0}
ROLLOUT = "/v2/models/cat/rollout"


def versions(rollout, **second):
    """A member of two versions, which add their number; what is said of the second goes first."""
    first, other = (fake(add=ADDED[one], **(second if one == "2" else {})) for one in ADDED)
    member = {"model": {"versions": {"1": first, "2": other}}, "output": "values"}
    return configuration({"cat": {**member, "rollout": {"version": "2", **rollout}}})


def version_of(answer):
    """The version that an answer says it is of; its values must be that version's."""
    version = answer.json["model_version"]
    assert answer.json["model_name"] == "cat"
    np.testing.assert_array_equal(answer.values, X + ADDED[version])
    return version


def test_a_canary_over_both_protocols(serve, connect):
    server = serve(versions({"mode": "canary", "percent": 25}))
    client, channel = server.client, connect(server)
    told = [version_of(client.predict("cat", X, binary=binary)) for binary in (True, False) * 20]
    assert 8 <= told.count("2") <= 12
    answers = [channel.infer("cat", X) for _ in range(40)]
    by_grpc = [answer.message.model_version for answer in answers]
    assert 8 <= by_grpc.count("2") <= 12
    for answer, version in zip(answers, by_grpc, strict=True):
        np.testing.assert_array_equal(answer.values, X + ADDED[version])
    for version in ADDED:
        asked = [version_of(client.predict(f"cat/versions/{version}", X)) for _ in range(5)]
        assert asked == [version] * 5
    figures = client.get(ROLLOUT).json()
    assert figures["new"]["requests"] + figures["present"]["requests"] == 80
    assert figures["new"]["requests"] == told.count("2") + by_grpc.count("2")
    assert figures["new"]["errors"] == 0


def test_a_canary_is_sticky(serve, connect):
    sticky = {"header": "X-User"}
    server = serve(versions({"mode": "canary", "percent": 50, "sticky": sticky}))
    channel = connect(server)

    def ask(user):
        client = Client(server.url)
        client.http.headers["x-user"] = user
        told = {version_of(client.predict("cat", X, binary=binary)) for binary in (True, False)}
        client.close()
        told.add(channel.infer("cat", X, metadata=(("x-user", user),)).message.model_version)
        (version,) = told
        return version

    assert {ask(f"user-{number}") for number in range(10)} == {"1", "2"}


def test_a_shadow_is_compared_and_answers_nobody(serve, connect):
    server = serve(versions({"mode": "shadow"}))
    channel = connect(server)

    def wait_compared(requests):
        def look():
            figures = server.client.get(ROLLOUT).json()
            return figures if figures["compared_requests"] == requests else None

        return wait_for(look, f"{requests} comparisons")

    for asked in range(1, 6):
        assert version_of(server.predict("cat", X, binary=bool(asked % 2))) == "1"
        wait_compared(asked)
    channel.infer("cat", X)
    seen = wait_compared(6)
    assert (seen["compared_rows"], seen["disagreeing_rows"]) == (12, 12.0)
    assert (seen["max_difference"], seen["dropped_copies"]) == (1.0, 0)
    assert seen["new"]["mean_ms"] > 0
    scrape = Scrape(server.client)
    name = "rollout_disagreeing_rows_total"
    assert scrape.value(name, model="cat", version="2") == 12
    told = server.client.get("/v2/models/cat/versions/2/stats").json()["model_stats"]
    assert told[0]["rollout"]["compared_rows"] == 12


def test_versions_of_an_ensemble_are_compared_by_their_classes(serve):
    classes = {"output": "probabilities"}
    config = configuration({"a": {**fake(1), **classes}, "b": {**fake(3), **classes}})
    config["ensembles"]["all"] = {
        "versions": {"1": {"members": ["a"]}, "2": {"members": ["a", "b"]}},
        "rollout": {"version": "2", "mode": "shadow"},
    }
    server = serve(config)
    for outputs in ([], ["class"], ["output", "entropy"]):
        answer = post_outputs(server, "all", outputs, X)
        assert answer.json.get("model_version") == "1", answer.json

    def look():
        figures = server.client.get("/v2/models/all/rollout").json()
        return figures if figures["compared_requests"] + figures["new"]["errors"] == 3 else None

    seen = wait_for(look, "three copies")
    assert (seen["compared_rows"], seen["disagreeing_rows"]) == (6, 0.0)


def post(server, **body):
    return server.client.http.post(ROLLOUT, content=json.dumps(body))


def test_by_hand(serve):
    server = serve(versions({"mode": "canary", "percent": 0}))
    assert version_of(server.predict("cat", X)) == "1"
    assert post(server, action="percent", percent=100).json()["generation"] == 2
    assert version_of(server.predict("cat", X)) == "2"
    assert version_of(server.predict("cat/versions/1", X)) == "1"
    assert post(server, action="percent", percent=0).json()["generation"] == 3
    assert version_of(server.predict("cat", X)) == "1"
    assert server.client.get(ROLLOUT).json()["new"]["requests"] == 1
    assert post(server, action="promote").json()["generation"] == 4
    assert [version_of(server.predict("cat", X)) for _ in range(3)] == ["2"] * 3
    assert server.client.get(ROLLOUT).status_code == 400
    assert post(server, action="rollback").status_code == 400


def test_a_version_that_fails_is_rolled_back(serve):
    limits = {"after_requests": 20, "max_error_rate": 0.1}
    server = serve(versions({"mode": "canary", "percent": 50, "rollback": limits}, fail="raise"))

    def is_over():
        server.predict("cat", X)
        return server.client.get(ROLLOUT).status_code == 400

    wait_for(is_over, "the end of the roll-out")
    assert [version_of(server.predict("cat", X)) for _ in range(10)] == ["1"] * 10
    assert server.predict("cat/versions/2", X).status == 404
    said = "the roll-out of version 2 of 'cat' is rolled back: "
    (line,) = [line for line in server.stderr.splitlines() if said in line]
    assert "requests failed" in line


def test_a_version_that_agrees_is_promoted(serve):
    ADDED_HERE = {"1": 1.0, "2": 1.0}
    first, other = (fake(add=add) for add in ADDED_HERE.values())
    limits = {"after_requests": 20, "max_disagreement": 0.4, "max_error_rate": 0.4}
    member = {
        "model": {"versions": {"1": first, "2": other}},
        "output": "values",
        "rollout": {"version": "2", "mode": "shadow", "promote": limits},
    }
    server = serve(configuration({"cat": member}))

    def is_promoted():
        return server.predict("cat", X).json["model_version"] == "2"

    wait_for(is_promoted, "the promotion")
    assert server.client.get(ROLLOUT).status_code == 400
    assert server.stderr.count("of version 2 of 'cat' is promoted: 0 of ") == 1


def reload(server, member):
    """Have the server serve another configuration of the member."""
    server.log.with_name("config.yaml").write_text(yaml.safe_dump(configuration({"cat": member})))
    return server.client.http.post("/v2/repository/reload")


def test_a_reload_begins_a_roll_out_and_keeps_its_outcome(serve, connect):
    tried = versions({"mode": "canary", "percent": 100})["members"]["cat"]
    alone = {**tried, "model": {"versions": {"1": tried["model"]["versions"]["1"]}}}
    del alone["rollout"]
    server = serve(configuration({"cat": alone}))
    channel = connect(server)

    def ask():
        told = [server.predict("cat", X, binary=binary) for binary in (True, False, True)]
        by_grpc = [channel.infer("cat", X).message.model_version for _ in range(2)]
        return {*map(version_of, told), *by_grpc}

    assert ask() == ask() == {"1"}  # requests like earlier ones are not parsed
    assert reload(server, tried).status_code == 200
    assert ask() == {"2"}
    assert post(server, action="rollback").json()["generation"] == 3
    assert ask() == {"1"}
    reload(server, {**tried, "batch_size": 4})
    assert ask() == {"1"}, "the roll-out is still over"
    assert server.client.get(ROLLOUT).status_code == 400
    again = {**tried, "rollout": {**tried["rollout"], "percent": 99}}
    assert reload(server, again).status_code == 200
    assert server.client.get(ROLLOUT).json()["percent"] == 99
