"""Reloading the configuration."""

import signal

import pytest

from server.config import Config
from server.supervision.config_reloader import ConfigReloader

FAKE = {"model": "fake", "fake": {"inputs": {"x": [2]}, "outputs": 2}}
CONFIG = Config.model_validate({"members": {"a": FAKE}})


@pytest.fixture(autouse=True)
def _keep_the_handler():
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


def test_a_failed_reload_changes_nothing_and_the_next_one_counts(caplog):
    outcomes = [RuntimeError("unforeseen"), CONFIG]

    def read(_document):
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    reloader = ConfigReloader(CONFIG, read)
    assert reloader.reload() is None
    assert "configuration not reloaded" in caplog.text
    assert "unforeseen" in caplog.text
    assert reloader.reload() is not None
