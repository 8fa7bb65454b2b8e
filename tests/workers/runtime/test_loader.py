"""The thread that loads and unloads, without a process around it."""

import os
import threading
from types import SimpleNamespace

import msgspec
import pytest
from serving import wait_for

from workers.runtime.bootstrap import StatusChannel
from workers.runtime.loader import Built, Loader, LoadFailed
from workers.runtime.mailbox import Mailbox
from workers.runtime.memory import BOARD_CELLS, BoardRow
from workers.runtime.spec import GenerationSpec, Load, Loaded, Unloaded

_decode = msgspec.json.Decoder(Loaded | Unloaded).decode


class Stage:
    """A loader with a builder that does what it is told."""

    def __init__(self):
        reading, self.writing = os.pipe()
        self.status = os.fdopen(reading, "rb")
        self.mailbox = Mailbox()
        self.calls, self.gate = [], threading.Event()
        self.outcome = lambda goes_on: "part"
        board = BoardRow(memoryview(bytearray(8 * BOARD_CELLS)).cast("q"))
        builder = SimpleNamespace(load=self._load, unload=lambda one: self.calls.append(-one))
        status = StatusChannel(self.writing)
        self.loader = Loader(builder, self.mailbox, board, status, lowers_priority=False)

    def _load(self, command, goes_on):
        self.calls.append(command.generation.number)
        return self.outcome(goes_on)

    def load(self, number):
        self.loader.load(Load(GenerationSpec(number, 0, 0, ())))

    def report(self):
        return _decode(self.status.readline())

    def close(self):
        wait_for(lambda: "loader" not in {one.name for one in threading.enumerate()}, "its end")
        os.close(self.writing)
        os.close(self.mailbox.descriptor)
        self.status.close()


@pytest.fixture
def stage():
    stage = Stage()
    yield stage
    stage.close()


def test_what_was_built_goes_to_the_loop_in_order(stage):
    for number in (1, 2, 3):
        stage.load(number)
    wait_for(lambda: len(stage.mailbox.items) == 3, "all of them")
    items = stage.mailbox.take()
    assert [(type(one), one.generation, one.part) for one in items] == [
        (Built, number, "part") for number in (1, 2, 3)
    ]
    assert not stage.mailbox.items


@pytest.mark.parametrize(
    ("failure", "error"),
    [(LoadFailed("why"), "why"), (OSError(12, "no memory"), "OSError: [Errno 12] no memory")],
)
def test_a_failure_is_reported_and_the_thread_goes_on(stage, failure, error):
    def fail(goes_on):
        raise failure

    stage.outcome = fail
    stage.load(1)
    report = stage.report()
    assert (report.generation, report.error.startswith(error)) == (1, True)
    stage.loader.unload(1)
    assert stage.report() == Unloaded(1)
    assert stage.calls == [1, -1]


def test_what_is_taken_back_while_it_is_built_is_unloaded_after_it(stage):
    begun = threading.Event()

    def wait(goes_on):
        assert goes_on()
        begun.set()
        stage.gate.wait()
        if not goes_on():
            raise LoadFailed("it is not wanted")
        return "part"

    stage.outcome = wait
    stage.load(1)
    begun.wait()
    stage.load(2)
    stage.loader.unload(1)
    assert not stage.loader.is_wanted(1)
    assert stage.loader.is_wanted(2)
    stage.gate.set()
    assert stage.report() == Unloaded(1)
    assert stage.calls == [1, 2, -1]
    assert [one.generation for one in stage.mailbox.take()] == [2]


def test_what_the_loop_can_not_serve_is_unloaded_before_that_is_reported(stage):
    stage.load(1)
    wait_for(lambda: stage.mailbox.items, "what was built")
    stage.loader.refuse(1, "x" * 20_000)
    report = stage.report()
    assert report.generation == 1
    assert len(report.error) < 10_000, "a line that its reader accepts"
    assert stage.calls == [1, -1]
