from server.config import Config, expand
from server.config.amendments import Amendments, amend
from server.config.loading import validated
from server.deployment.unserved import unserved_models

FAKE = {"model": "fake", "fake": {"inputs": {"x": [2]}, "outputs": 2}}
VERSION = {"model": "fake", "fake": FAKE["fake"]}


def read(tmp_path, **sections):
    return validated(sections, tmp_path / "config.yaml")


def names(base, served):
    return [tuple(one) for one in unserved_models(base, expand(served))]


def test_everything_is_served(tmp_path):
    config = read(tmp_path, members={"a": FAKE}, ensembles={"all": {"members": ["a"]}})
    assert isinstance(config, Config)
    assert names(config, config) == []


def test_what_was_unloaded_and_what_a_policy_leaves_out(tmp_path):
    model = {"versions": {"1": VERSION, "2": VERSION}, "policy": {"latest": 1}}
    config = read(
        tmp_path,
        members={"a": FAKE, "cat": {"model": model}},
        ensembles={"all": {"members": ["a"]}, "two": {"versions": {"3": {"members": ["cat"]}}}},
    )
    served = amend(config, Amendments(unloads=("all", "a", "two")))
    assert names(config, served) == [
        ("all", "1", "it is not loaded"),
        ("two", "3", "it is not loaded"),
        ("a", "1", "it is not loaded"),
        ("cat", "1", "other versions of it are served"),
    ]


def test_versions_in_a_directory(tmp_path):
    for version in ("1", "2", "3"):
        (tmp_path / "cat" / version).mkdir(parents=True)
        (tmp_path / "cat" / version / "model.onnx").touch()
    config = read(tmp_path, members={"cat": {"model": {"versions": "cat"}}})
    assert [one[1] for one in names(config, config)] == ["1", "2"]
