import json
from pathlib import Path

import pytest

from server.config.overrides import read_override
from server.errors import ConfigError

BASE, FILES = Path("/configuration"), Path("/uploads/x")
FAKE = {"model": "fake", "fake": {"inputs": {"x": [2]}, "outputs": 2}}
VERSIONED = {"model": {"versions": "models", "policy": "all"}, "output": "logits"}


def read(config=None, files=None, present=None):
    text = json.dumps(config) if config is not None else ""
    return read_override("cat", text, files, present, BASE)


def test_without_anything_the_section_stays():
    assert read(present=FAKE) == (FAKE, BASE)


@pytest.mark.parametrize("given", [FAKE, {"ensembled": FAKE}, {"ensembled": FAKE, "name": "cat"}])
def test_a_section_stands_instead_of_the_present_one(given):
    override = read(given, present=VERSIONED)
    assert override == (FAKE, BASE)
    assert override.kind == "members"


@pytest.mark.parametrize(
    "section", [{"members": ["a"], "rule": "mean"}, {"versions": {"1": {"members": ["a"]}}}]
)
def test_a_section_of_an_ensemble(section):
    override = read({"ensembled": section})
    assert (override.section, override.kind) == (section, "ensembles")


def test_files_are_versions_of_the_model():
    assert read(files=FILES, present={"output": "logits", "model": "a.onnx"}) == (
        {"output": "logits", "model": {"versions": str(FILES)}},
        BASE,
    )
    assert read(files=FILES).section == {"model": {"versions": str(FILES)}}


def test_a_section_with_files_names_them_or_takes_all():
    assert read({"ensembled": {"output": "logits"}}, FILES, VERSIONED) == (
        {"output": "logits", "model": {"versions": str(FILES)}},
        FILES,
    )
    named = {"model": "1/model.onnx"}
    assert read({"ensembled": named}, FILES) == (named, FILES)


def test_fields_of_triton_are_laid_over_the_present_section():
    config = {
        "name": "cat",
        "platform": "onnxruntime_onnx",
        "max_batch_size": 8,
        "version_policy": {"specific": {"versions": [2, 3]}},
    }
    versions = {"versions": "models", "policy": {"specific": ["2", "3"]}}
    assert read(config, present=VERSIONED) == (
        {"model": versions, "output": "logits", "batch_size": 8},
        BASE,
    )
    del config["version_policy"]
    assert read(config, present=FAKE).section == {**FAKE, "batch_size": 8}
    assert read(config, FILES, FAKE).section["model"] == {"versions": str(FILES)}


@pytest.mark.parametrize(
    ("config", "files", "present", "problem"),
    [
        ([], None, FAKE, "cat: its configuration should be a JSON object"),
        ({"ensembled": 1}, None, None, "cat: ensembled should be a section"),
        ({"ensembled": FAKE, "model": 1}, None, None, "cat: model has no meaning beside ensembled"),
        ({"name": "dog"}, None, FAKE, "the configuration is of another model, 'dog'"),
        ({"parameters": {}}, None, FAKE, "cat: parameters: has no meaning here, remove it"),
        ({"max_batch_size": "x"}, None, FAKE, "cat: max_batch_size: should be a whole number"),
        ({"backend": "tensorrt"}, None, FAKE, "cat: backend: 'tensorrt' is not served here"),
        ({"max_batch_size": 8}, None, None, "cat: there is no such member in the configuration"),
        ({"max_batch_size": 8}, None, {"members": ["a"]}, "cat: an ensemble is configured by"),
        (None, FILES, {"members": ["a"]}, "cat: an ensemble is configured by"),
        ({"ensemble_scheduling": {}}, None, FAKE, "cat: an ensemble is configured by"),
        (
            {"version_policy": {"all": {}}},
            None,
            FAKE,
            "version_policy: the model has one version in the configuration",
        ),
    ],
)
def test_what_has_no_meaning_is_named(config, files, present, problem):
    with pytest.raises(ConfigError, match=problem):
        read(config, files, present)


def test_a_text_that_is_no_json():
    with pytest.raises(ConfigError, match="cat: its configuration is not JSON"):
        read_override("cat", "{", None, None, BASE)
