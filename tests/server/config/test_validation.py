"""The section `validate` of members and ensembles, with and without versions."""

import pytest

from server.config import load_config
from server.deployment.validations import validation_specs
from server.errors import ConfigError

FAKE = "{inputs: {x: [2]}, outputs: 2}"


def load(tmp_path, *lines):
    (tmp_path / "rows.npz").touch()
    path = tmp_path / "config.yaml"
    path.write_text("\n".join(lines))
    return load_config(path)


def test_a_file_alone_or_a_mapping(tmp_path):
    config = load(
        tmp_path,
        "members:",
        f"  a: {{model: fake, fake: {FAKE}, validate: rows.npz}}",
        f"  b: {{model: fake, fake: {FAKE}, validate: {{data: rows.npz, max_disagreement: 0}}}}",
        f"  c: {{model: fake, fake: {FAKE}}}",
    )
    a, b = validation_specs(config)
    assert (a.model, a.key, a.max_disagreement, a.tolerance) == ("a", "members.a", 0.05, 1e-3)
    assert (b.model, b.max_disagreement) == ("b", 0)
    assert a.path == b.path == str(tmp_path / "rows.npz")


def test_all_versions_have_it(tmp_path):
    config = load(
        tmp_path,
        "members:",
        f"  a: {{model: {{versions: {{1: fake, 2: fake}}}}, fake: {FAKE}, validate: rows.npz}}",
        "ensembles:",
        "  e: {versions: {1: {members: [a]}, 2: {members: [a@1]}}, validate: rows.npz}",
    )
    specs = validation_specs(config)
    assert [spec.model for spec in specs] == ["a@1", "a@2", "e@1", "e@2"]
    assert {spec.key for spec in specs} == {"members.a", "ensembles.e"}


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ("{max_disagreement: 0.1}", r"members\.a\.validate\.data"),
        ("{data: rows.npz, max_disagreement: 1.5}", r"validate\.max_disagreement"),
        ("{data: rows.npz, tolerance: -1}", r"validate\.tolerance"),
        ("{data: rows.npz, limit: 1}", r"validate\.limit"),
        ("gone.npz", r"validate\.data.*gone\.npz"),
        ("7", r"members\.a\.validate"),
    ],
)
def test_mistakes(tmp_path, section, complaint):
    with pytest.raises(ConfigError, match=complaint):
        load(
            tmp_path,
            "members:",
            f"  a: {{model: fake, fake: {FAKE}, validate: {section}}}",
        )
