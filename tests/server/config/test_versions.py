import pytest

from server.config import Config, default_names, expand, load_config, read_config
from server.config.versions import VersionsConfig
from server.errors import ConfigError

MEMBERS = """
members:
  cat:
    model: {versions: {1: a.onnx, "2": b.onnx, 10: {model: c.onnx, temperature: 2}}}
    output: logits
    labels: labels.txt
  dog: {model: a.onnx}
"""


@pytest.fixture
def write(tmp_path):
    for name in ("a.onnx", "b.onnx", "c.onnx", "labels.txt", "more.txt"):
        (tmp_path / name).touch()

    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def problems(write):
    def problems(text):
        path = write(text)
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        return [line.removeprefix(f"{path}: ") for line in caught.value.problems]

    return problems


def fake(**fields):
    return {"model": "fake", "fake": {"inputs": {"x": [4]}, "outputs": 2, **fields}}


def expanded(members, ensembles=None):
    return expand(Config.model_validate({"members": members, "ensembles": ensembles or {}}))


def of_fakes(*versions, **more):
    """A member whose versions add their number."""
    return {"model": {"versions": {one: fake(add=int(one)) for one in versions}, **more}}


def test_each_version_is_a_member_with_the_keys_of_all(write, tmp_path):
    config = load_config(write(MEMBERS))
    assert list(config.members) == ["cat@1", "cat@2", "cat@10", "dog"]
    one, two, ten, _ = config.members.values()
    assert [member.model for member in (one, two, ten)] == [
        tmp_path / "a.onnx",
        tmp_path / "b.onnx",
        tmp_path / "c.onnx",
    ]
    assert {member.output for member in (one, two, ten)} == {"logits"}
    assert {member.labels for member in (one, two, ten)} == {tmp_path / "labels.txt"}
    assert [member.temperature for member in (one, two, ten)] == [1, 1, 2]


def test_what_is_not_given_stays_so(write):
    config = load_config(write(MEMBERS))
    assert config.members["cat@1"].model_fields_set == {"model", "output", "labels"}


def test_without_versions_nothing_changes(write):
    text = "members: {a: {model: a.onnx}, b: {model: b.onnx}}\nensembles: {e: {members: [b, a]}}"
    path = write(text)
    assert load_config(path) == read_config(path)


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ({}, ["1", "2", "10"]),
        ({"policy": "all"}, ["1", "2", "10"]),
        ({"policy": {"latest": 1}}, ["10"]),
        ({"policy": {"latest": 2}}, ["2", "10"]),
        ({"policy": {"latest": 9}}, ["1", "2", "10"]),
        ({"policy": {"specific": [10, "1"]}}, ["1", "10"]),
        ({"without": [10]}, ["1", "2"]),
        ({"without": ["10"], "policy": {"latest": 1}}, ["2"]),
        ({"without": [1], "policy": {"specific": [1, 2]}}, ["2"]),
    ],
)
def test_policies(policy, served):
    config = expanded({"cat": of_fakes("10", "1", "2", **policy)})
    assert list(config.members) == [f"cat@{version}" for version in served]


def test_members_of_ensembles_are_the_newest_version_or_the_one_that_is_named():
    members = {"cat": of_fakes("1", "2", "10"), "dog": fake()}
    ensembles = {
        "newest": {"members": ["dog", "cat"]},
        "older": {"members": ["cat@2", "dog@1"]},
        "both": {
            "members": ["cat@1", "cat"],
            "rule": "weighted_mean",
            "weights": {"cat": 3, "cat@1": 1},
        },
        "cascade": {"members": ["dog", "cat"], "cascade": [["cat"], ["dog"]], "confidence": [0.9]},
    }
    config = expanded(members, ensembles)
    found = {name: ensemble.members for name, ensemble in config.ensembles.items()}
    assert found == {
        "newest": ("dog", "cat@10"),
        "older": ("cat@2", "dog"),
        "both": ("cat@1", "cat@10"),
        "cascade": ("dog", "cat@10"),
    }
    assert config.ensembles["both"].weights == (1, 3)
    assert config.ensembles["cascade"].cascade == (("cat@10",), ("dog",))


def test_versions_of_an_ensemble():
    versions = {1: {"members": ["cat"]}, "2": {"members": ["cat", "dog"], "rule": "median"}}
    config = expanded({"cat": of_fakes("1", "2"), "dog": fake()}, {"e": {"versions": versions}})
    assert list(config.ensembles) == ["e@1", "e@2"]
    assert config.ensembles["e@1"].members == ("cat@2",)
    assert config.ensembles["e@2"].rule == "median"


def test_a_version_under_roll_out_is_nobodys_default():
    rollout = {"version": "2", "mode": "canary"}
    member = {**of_fakes("1", "2"), "rollout": rollout}
    versions = {"1": {"members": ["cat"]}, "3": {"members": ["cat@2"]}}
    ensemble = {"versions": versions, "rollout": {"version": 3, "mode": "shadow"}}
    config = expanded({"cat": member}, {"e": ensemble})
    assert config.ensembles["e@1"].members == ("cat@1",)
    assert {one.rollout.version for one in config.members.values()} == {"2"}
    assert {one.rollout.version for one in config.ensembles.values()} == {"3"}
    assert default_names(config) == {"cat": "cat@1", "e": "e@1"}


def test_default_names():
    members = {"cat": of_fakes("2", "10", "9"), "dog": fake()}
    assert default_names(expanded(members)) == {"cat": "cat@10", "dog": "dog"}


def test_expansion_keeps_what_is_known_of_the_file(write, tmp_path):
    path = write(MEMBERS)
    config = load_config(path)
    assert (config.directory, config.path) == (tmp_path, path)
    assert config.document == read_config(path).document


def test_without_conformal_in_versions(write, tmp_path):
    (tmp_path / "fitted.json").touch()
    text = (
        "ensembles: {e: {versions: {1: {members: [dog], conformal: fitted.json, coverage: 0.8}}}}"
    )
    config = load_config(write(MEMBERS + text), with_conformal=False)
    assert config.ensembles["e@1"].conformal is None


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("{versions: {}}", "model.versions: should not be empty"),
        (
            "{versions: {v1: a.onnx}}",
            "model.versions.v1: a version should be a whole number from 1, not 'v1'",
        ),
        (
            "{versions: {0: a.onnx}}",
            "model.versions.0: a version should be a whole number from 1, not '0'",
        ),
        ("{versions: {'01': a.onnx}}", "model.versions.01: a version should be a whole number"),
        ("{versions: {yes: a.onnx}}", "model.versions.1: a version should be a whole number"),
        ("{versions: [a.onnx]}", "model.versions: should be a mapping of versions, or the path"),
        ("{policy: all}", "model.versions: is required"),
        ("{versions: {1: x.onnx}}", "model.versions.1: there is no file"),
        ("{versions: {1: {modle: a.onnx}}}", "model.versions.1: modle: unknown key"),
        (
            "{versions: {1: {model: a.onnx, tempature: 2}}}",
            "model.versions.1.tempature: unknown key, did you mean 'temperature'?",
        ),
        ("{versions: {1: a.weights}}", "model.versions.1: model: cannot tell the format"),
        (
            "{versions: {1: a.onnx, 2: a.onnx}, policy: {specific: [3]}}",
            "model: policy.specific: there is no version 3, the versions are 1, 2",
        ),
        ("{versions: {1: a.onnx}, without: [1]}", "model: without: leaves no version"),
        ("{versions: {1: a.onnx}, policy: {latest: 0}}", "model.policy.latest: should be greater"),
        ("{versions: {1: a.onnx}, policy: newest}", "model.policy: should be all, {latest: N}"),
        ("{versions: {1: a.onnx}, file: x}", "model: file is for a directory of versions"),
        ("{versions: nowhere}", "model.versions: there is no directory"),
        (
            "{versions: {1: {model: a.onnx, fake: {inputs: {x: [1]}, outputs: 1}}}}",
            "model.versions.1: fake is only for `model: fake`",
        ),
    ],
)
def test_problems_of_versions(problems, tmp_path, model, expected):
    (tmp_path / "a.weights").touch()
    (line,) = problems(f"members: {{cat: {{model: {model}}}}}")
    assert line.startswith(f"members.cat.{expected}")


def test_what_is_wrong_with_all_versions_is_told_once(problems):
    text = "members: {cat: {model: {versions: {1: a.onnx, 2: b.onnx}}, temperature: 2}}"
    assert problems(text) == [
        "members.cat.model.versions.1: temperature is for logits and probabilities, not values"
    ]


@pytest.mark.parametrize(
    ("ensembles", "expected"),
    [
        (
            "{e: {members: [cat@3]}}",
            "e.members: version 3 of 'cat' is not served, the versions are 1, 2, 10",
        ),
        (
            "{e: {members: [dog@2]}}",
            "e.members: version 2 of 'dog' is not served, the versions are 1",
        ),
        ("{e: {members: [cta@1]}}", "e.members: unknown member 'cta', did you mean 'cat'?"),
        ("{e: {members: [cat@new]}}", "e.members.0: a version should be a whole number from 1"),
        ("{e: {members: [cat, cat@10]}}", "e.members: 'cat' and 'cat@10' are the same version"),
        ("{e: {}}", "e.members: is required"),
        ("{e: {members: }}", "e.members: is required"),
        ("{e@1: {members: [cat]}}", "e@1: the name 'e@1' should not contain '@'"),
        ("{e: {versions: {}}}", "e.versions: should not be empty"),
        ("{e: {versions: {a: {members: [cat]}}}}", "e.versions.a: a version should be a whole"),
        ("{e: {versions: {1: {}}}}", "e.versions.1.members: is required"),
        ("{e: {versions: {1: {members: [cta]}}}}", "e.versions.1.members: unknown member 'cta'"),
        ("{e: {versions: {1: {members: [cat@4]}}}}", "e.versions.1.members: version 4 of 'cat'"),
        (
            "{e: {versions: {1: {members: [cat]}}, rule: mean}}",
            "e: rule has no meaning beside versions: give it there",
        ),
        (
            "{e: {versions: {1: {versions: {1: {members: [cat]}}}}}}",
            "e: versions.1: a version has no versions of its own",
        ),
        (
            "{e: {members: [cat], rollout: {version: 1, mode: shadow}}}",
            "e: rollout is for an ensemble with versions",
        ),
        (
            "{e: {versions: {1: {members: [cat]}}, rollout: {version: 2, mode: shadow}}}",
            "e.rollout.version: version 2 is not served, the versions are 1",
        ),
        (
            "{e: {versions: {1: {members: [cat]}}, rollout: {version: 1, mode: shadow}}}",
            "e.rollout: the present version has to be served, too, beside 1",
        ),
    ],
)
def test_problems_of_ensembles(problems, ensembles, expected):
    (line,) = problems(f"{MEMBERS}ensembles: {ensembles}")
    assert line.startswith(f"ensembles.{expected}")


@pytest.mark.parametrize(
    ("rollout", "expected"),
    [
        ("{version: 2}", "rollout.mode: is required"),
        ("{version: two, mode: shadow}", "rollout.version: a version should be a whole number"),
        ("{version: 2, mode: shadow, percent: 101}", "rollout.percent: should be less than or"),
        ("{version: 2, mode: shadow, sticky: request_id}", "rollout: sticky is for mode canary"),
        ("{version: 2, mode: canary, sticky: id}", "rollout.sticky: should be request_id or"),
        ("{version: 2, mode: canary, sticky: {header: 'a b'}}", "rollout.sticky.header: "),
        ("{version: 2, mode: canary, tolerance: 1}", "rollout: tolerance is for mode shadow"),
        ("{version: 2, mode: canary, rollback: {}}", "rollout.rollback: needs a limit"),
        ("{version: 2, mode: canary, promote: {}}", "rollout.promote.after_requests: is required"),
        (
            "{version: 2, mode: canary, promote: {after_requests: 1, max_disagreement: 0.1}}",
            "rollout: promote.max_disagreement is for mode shadow",
        ),
        (
            "{version: 3, mode: shadow}",
            "rollout.version: version 3 is not served, the versions are 1, 2",
        ),
    ],
)
def test_problems_of_rollouts(problems, rollout, expected):
    model = "{versions: {1: a.onnx, 2: b.onnx}}"
    (line,) = problems(f"members: {{cat: {{model: {model}, rollout: {rollout}}}}}")
    assert line.startswith(f"members.cat.{expected}")


def test_a_rollout_needs_versions(problems):
    text = "members: {cat: {model: a.onnx, rollout: {version: 2, mode: shadow}}}"
    (line,) = problems(text)
    assert line == "members.cat: rollout is for a member with `model: {versions: ...}`"


def test_members_have_no_version_in_their_name(problems):
    (line,) = problems("members: {cat@1: {model: a.onnx}}")
    assert line.startswith("members.cat@1: the name 'cat@1' should not contain '@'")


def test_more_members_than_an_arena_can_hold():
    with pytest.raises(
        ConfigError, match="members: 66 with all of their versions, 64 are the most"
    ):
        expanded({"cat": of_fakes(*map(str, range(1, 67)))})


@pytest.fixture
def folders(write, tmp_path):
    """Writes files of versions below `models`, and returns a configuration of the directory."""

    def folders(*files, **model):
        for file in files:
            path = tmp_path / "models" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        section = VersionsConfig.model_validate({"versions": "models", **model}).model_dump(
            mode="json", exclude_unset=True
        )
        section["versions"] = "models"
        return write(f"members: {{cat: {{model: {section}}}}}")

    return folders


def test_a_directory_serves_its_newest_version(folders, tmp_path):
    path = folders("1/model.onnx", "2/model.onnx", "10/model.onnx")
    config = load_config(path)
    assert {name: one.model for name, one in config.members.items()} == {
        "cat@10": tmp_path / "models/10/model.onnx"
    }


def test_a_directory_is_listed_each_time(folders, tmp_path):
    path = folders("1/model.onnx", policy="all")
    config = read_config(path)
    assert list(expand(config).members) == ["cat@1"]
    folders("3/model.pt2", policy="all")
    assert list(expand(config).members) == ["cat@1", "cat@3"]
    assert load_config(path).members["cat@3"].model == tmp_path / "models/3/model.pt2"


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("model.ubj", "xgboost"),
        ("model.json", "xgboost"),
        ("model.cbm", "catboost"),
        ("model.keras", "keras"),
        ("model.skops", "sklearn"),
    ],
)
def test_models_of_libraries_in_a_directory(folders, tmp_path, file, key):
    config = load_config(folders(f"4/{file}"))
    assert getattr(config.members["cat@4"].model, key) == tmp_path / "models/4" / file


def test_a_model_of_another_name_in_a_directory(folders, tmp_path):
    path = folders("1/net.onnx", "1/model.onnx", file="net.onnx")
    assert load_config(path).members["cat@1"].model == tmp_path / "models/1/net.onnx"


def test_other_folders_of_a_directory_are_warned_about(folders, caplog):
    path = folders("1/model.onnx", "old/model.onnx", ".git/x", "02/model.onnx", "labels.txt")
    load_config(path)
    (record,) = caplog.records
    assert record.getMessage().endswith("not a version, which is a whole number from 1: 02, old")


@pytest.mark.parametrize(
    ("files", "model", "expected"),
    [
        (["x.onnx"], {}, "model: there is no version in"),
        (["1/x.onnx"], {}, "model.versions.1: there is no model.onnx in"),
        (["1/model.onnx", "1/model.pt2"], {}, "model.versions.1: "),
        (["1/model.onnx"], {"file": "net.onnx"}, "model.versions.1: there is no file"),
        (["1/net.tar"], {"file": "net.tar"}, "model.versions.1: model: cannot tell the format"),
        (["1/model.onnx"], {"policy": {"specific": ["2"]}}, "model: policy.specific: there is no"),
    ],
)
def test_problems_of_directories(folders, files, model, expected):
    path = folders(*files, **model)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    (line,) = caught.value.problems
    assert line.startswith(f"{path}: members.cat.{expected}")
