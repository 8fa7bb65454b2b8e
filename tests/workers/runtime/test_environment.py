import os
import stat
import tempfile

import pytest

from workers.runtime.cache import cache_dir
from workers.runtime.environment import prepare_environment, private_directory

NOBODY = 987_654


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    """An environment without any of the variables, whose temporary files are in `tmp_path`."""
    for name in ("HOME", "ENSEMBLED_CACHE", "ORT_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")  # so that what is set later is undone
        monkeypatch.delenv(name)
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def unknown_user(monkeypatch):
    """This process' user has no passwd entry."""

    def find(uid):
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", find)


def test_telemetry_is_off_unless_the_user_wants_it(monkeypatch):
    prepare_environment()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    prepare_environment()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"


@pytest.mark.usefixtures("unknown_user")
def test_without_a_home_a_private_temporary_one_is_warned_of_once(tmp_path, caplog):
    (warning,) = prepare_environment()
    home = tmp_path / f"ensembled-{os.geteuid()}"
    assert str(home) in warning
    assert os.environ["HOME"] == str(home)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert prepare_environment() == []
    assert cache_dir() == home / ".cache" / "ensembled"
    assert not caplog.records


@pytest.mark.parametrize("name", ["HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"])
def test_a_relative_directory_is_ignored_and_not_made(name, tmp_path, monkeypatch):
    monkeypatch.setenv(name, "here")
    (warning,) = prepare_environment()
    assert warning == f"{name} is 'here', which is no absolute path: it is ignored"
    assert name not in os.environ
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "ensembled"
    assert not (tmp_path / "here").exists()


def test_with_a_home_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert prepare_environment() == []


def test_a_home_that_cannot_be_written_to_is_replaced_for_the_cache(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HOME", "/dev/null")
    expected = tmp_path / f"ensembled-{os.geteuid()}" / "cache"
    assert [cache_dir(), cache_dir()] == [expected, expected]
    (record,) = caplog.records
    assert str(expected) in record.getMessage()
    assert os.environ["HOME"] == "/dev/null"


@pytest.mark.usefixtures("unknown_user")
def test_a_temporary_directory_of_somebody_else_is_refused(tmp_path, monkeypatch):
    (tmp_path / f"ensembled-{NOBODY}").symlink_to("/tmp")
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    with pytest.raises(PermissionError, match="not a directory of this user"):
        private_directory()
    (warning,) = prepare_environment()
    assert "neither a home directory nor a temporary one" in warning
