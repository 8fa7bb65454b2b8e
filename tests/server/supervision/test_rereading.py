"""What becomes of a configuration that is read again."""

import signal

import pytest

from server.config import Config
from server.supervision.rereading import Rereading

FAKE = {"model": "fake", "fake": {"inputs": {"x": [2]}, "outputs": 2}}
CONFIG = Config.model_validate({"members": {"a": FAKE}})


@pytest.fixture(autouse=True)
def _keep_the_handler():
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


def test_whatever_fails_changes_nothing_and_the_next_reading_counts(caplog):
    outcomes = [RuntimeError("unforeseen"), CONFIG]

    def read():
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    rereading = Rereading(CONFIG, read)
    assert rereading.again() is None
    assert "nothing is reloaded" in caplog.text
    assert "unforeseen" in caplog.text
    assert rereading.again() is not None
