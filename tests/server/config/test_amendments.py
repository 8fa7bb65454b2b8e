"""What requests have changed beyond the configuration file."""

import json

import msgspec
import pytest

from server.config import Config
from server.config.amendments import Amendments, Load, amend, amended_by, with_model
from server.config.loading import override_server, validated
from server.control import (
    LoadRequest,
    PlaceRequest,
    ReloadRequest,
    RolloutRequest,
    UnloadRequest,
)
from server.errors import ConfigError

FAKE = {"model": "fake", "fake": {"inputs": {"x": [2]}, "outputs": 2}}
OTHER = {"model": "fake", "fake": {"inputs": {"x": [2]}, "outputs": 3}}


@pytest.fixture
def config(tmp_path):
    document = {
        "members": {"a": FAKE, "b": FAKE, "c": FAKE},
        "ensembles": {"ab": {"members": ["a", "b"]}, "bc": {"members": ["b", "c"]}},
    }
    return validated(document, tmp_path / "config.yaml")


def after(config, *requests):
    """The amendments after some requests, and the configuration with them."""
    amendments = Amendments()
    for request in requests:
        amendments = amended_by(config, amendments, request)
        # What a crash leaves behind is the same.
        encoded = msgspec.json.encode(amendments)
        amendments = msgspec.json.decode(encoded, type=Amendments)
    return amendments, amend(config, amendments)


def names(config: Config):
    return [*config.members], [*config.ensembles]


def load(model, section=None, directory=""):
    return LoadRequest(model, json.dumps(section) if section else "", directory)


def test_without_amendments_the_configuration_is_the_same(config):
    assert amend(config, Amendments(matrix="{}")) is config


def test_an_unloaded_model_is_not_served_until_it_is_loaded(config):
    _, amended = after(config, UnloadRequest("ab"))
    assert names(amended) == (["a", "b", "c"], ["bc"])
    amendments, amended = after(config, UnloadRequest("ab"), load("ab"))
    assert names(amended) == (["a", "b", "c"], ["ab", "bc"])
    assert amendments.loads == {"ab": Load()}


def test_dependents_are_members_that_nobody_else_needs_or_has_loaded(config):
    _, amended = after(config, UnloadRequest("ab", dependents=True))
    assert names(amended) == (["b", "c"], ["bc"])
    _, amended = after(config, load("a"), UnloadRequest("ab", dependents=True))
    assert names(amended) == (["a", "b", "c"], ["bc"])
    requests = UnloadRequest("ab", dependents=True), load("ab")
    assert names(after(config, *requests)[1]) == (["a", "b", "c"], ["ab", "bc"])


def test_a_member_in_use_is_not_unloaded(config):
    with pytest.raises(ConfigError, match=r"members.a: the ensemble ab needs it: unload that"):
        after(config, UnloadRequest("a"))
    with pytest.raises(ConfigError, match=r"members.b: \['ab', 'bc'\] need it"):
        after(config, UnloadRequest("b"))


@pytest.mark.parametrize("request_", [UnloadRequest("ac"), load("ac")])
def test_an_unknown_model_is_named_with_the_nearest(config, request_):
    with pytest.raises(ConfigError, match="there is no model 'ac', did you mean"):
        after(config, request_)


def test_a_model_that_is_unloaded_can_not_be_unloaded(config):
    with pytest.raises(ConfigError, match="there is no model 'ab'"):
        after(config, UnloadRequest("ab"), UnloadRequest("ab"))


def test_the_last_members_stay(config):
    requests = UnloadRequest("ab", dependents=True), UnloadRequest("bc", dependents=True)
    with pytest.raises(ConfigError, match="a server serves one member at least, this is the last"):
        after(config, *requests)


def test_a_section_replaces_that_of_the_file_until_the_model_is_loaded_without(config):
    _, amended = after(config, load("a", OTHER))
    assert amended.members["a"].fake.outputs == 3
    assert list(amended.members) == ["b", "c", "a"]
    _, amended = after(config, load("a", OTHER), load("a"))
    assert amended.members["a"].fake.outputs == 2


def test_new_models_can_be_loaded_and_unloaded(config):
    requests = load("d", OTHER), load("cd", {"members": ["c", "d"], "quorum": 1})
    _, amended = after(config, *requests)
    assert names(amended) == (["a", "b", "c", "d"], ["ab", "bc", "cd"])
    amendments, amended = after(config, *requests, UnloadRequest("cd"), UnloadRequest("d"))
    assert names(amended) == names(config)
    assert amendments == Amendments()


def test_paths_are_relative_to_the_directory_of_a_request(config, tmp_path):
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent/m.onnx").touch()
    pinned = {"file": "m.onnx", "sha256": "0" * 64}
    _, amended = after(config, load("a", {"model": pinned}, str(tmp_path / "sent")))
    assert amended.members["a"].model == tmp_path / "sent/m.onnx"
    assert list(amended.files) == [tmp_path / "sent/m.onnx"]
    with pytest.raises(ConfigError, match=rf"members.a.model: there is no file {tmp_path}/m.onnx"):
        after(config, load("a", {"model": "m.onnx"}))


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ('{"model": "fake", "fakes": 1}', "members.a.fakes: unknown key, did you mean 'fake'"),
        ('{"members": ["b"], "quorum": 2}', r"ensembles.a: quorum is 2, but there are only 1"),
        ("{", "a: its configuration is not JSON"),
        ("[]", "a: its configuration should be a JSON object"),
    ],
)
def test_a_wrong_section_is_refused_by_its_key(config, section, problem):
    with pytest.raises(ConfigError, match=problem):
        after(config, LoadRequest("a", section))


def test_a_reload_forgets_what_was_loaded_unloaded_and_placed(config):
    requests = load("d", OTHER), UnloadRequest("ab"), PlaceRequest("{}"), ReloadRequest()
    assert after(config, *requests)[0] == Amendments()
    assert after(config, PlaceRequest("{}"))[0] == Amendments(matrix="{}")


def test_overrides_of_the_command_line_stay(config):
    overridden = override_server(config, http_port=1234)
    _, amended = after(overridden, UnloadRequest("ab"))
    assert amended.server.http_port == 1234


def test_there_must_be_a_rollout_to_end(config):
    with pytest.raises(ConfigError, match="a: there is no roll-out of this model"):
        after(config, RolloutRequest("a", "promote"))


def test_a_models_section_is_taken_from_another_document():
    first = {"members": {"a": 1, "b": 2}, "ensembles": {"all": {"members": ["a", "b"]}}, "x": 0}
    other = {
        "members": {"a": 5, "c": 3, "d": 4},
        "ensembles": {"all": {"members": ["a", "c@2"]}},
        "x": 9,
    }
    assert with_model(first, first, "a") is first
    assert with_model(first, other, "a") == {**first, "members": {"a": 5, "b": 2}}
    assert with_model(first, other, "d")["members"] == {"a": 1, "b": 2, "d": 4}
    assert with_model(first, other, "b")["members"] == {"a": 1}
    assert with_model(first, other, "all") == {
        "members": {"a": 1, "b": 2, "c": 3},
        "ensembles": other["ensembles"],
        "x": 0,
    }
    assert with_model(first, {"members": None}, "all")["ensembles"] == {}
