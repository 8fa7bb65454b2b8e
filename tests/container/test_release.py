"""A release has one version everywhere, and its own section of the changelog."""

import datetime
import runpy
import tomllib

import pytest

from tests.container.building import PROJECT

RELEASE = runpy.run_path(str(PROJECT / ".ci/release.py"))
DAY = datetime.date(2026, 12, 1)


def test_every_place_has_the_same_version():
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    for name, patterns in RELEASE["PLACES"].items():
        text = (PROJECT / name).read_text()
        assert RELEASE["with_version"](text, patterns, version) == text
        assert "9.8.7" in RELEASE["with_version"](text, patterns, "9.8.7")


def test_a_place_that_is_gone_is_an_error():
    with pytest.raises(RELEASE["ReleaseError"], match="no version at"):
        RELEASE["with_version"]("", ["(a)b(c)"], "1.0.0")


def test_the_changelog():
    text = "# Changelog\n\n## Unreleased\n\n- new\n\n## 0.1.0 (2026-01-01)\n\n- old\n"
    assert RELEASE["released"](text, "0.2.0", DAY) == (
        "# Changelog\n\n## Unreleased\n\n## 0.2.0 (2026-12-01)\n\n- new\n\n"
        "## 0.1.0 (2026-01-01)\n\n- old\n"
    )
    assert RELEASE["UNRELEASED"] in (PROJECT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("# Changelog\n\n## Unreleased\n\n## 0.1.0 (2026-01-01)\n\n- old\n", "nothing"),
        ("# Changelog\n\n## 0.1.0 (2026-01-01)\n\n- old\n", "nothing"),
        ("## Unreleased\n\n- new\n\n## 0.2.0 (2026-01-01)\n\n- old\n", "already"),
    ],
)
def test_a_changelog_that_is_not_fit(text, problem):
    with pytest.raises(RELEASE["ReleaseError"], match=problem):
        RELEASE["released"](text, "0.2.0", DAY)


@pytest.mark.parametrize("version", ["", "v1.0.0", "1.0", "1.0.0-beta"])
def test_no_version(version):
    with pytest.raises(RELEASE["ReleaseError"], match="no version"):
        RELEASE["main"](version)
