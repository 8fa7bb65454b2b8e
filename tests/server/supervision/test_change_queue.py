"""The queue of changes: one at a time, and what becomes of each is told."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from server.control import Answer, Ask, PlaceRequest, ReloadRequest, UnloadRequest
from server.errors import ConfigError, StartError
from server.inference.spec import ChangeCounts
from server.supervision.change_queue import ChangeQueue
from server.supervision.transaction import ChangeFailed

RELOAD = ReloadRequest()


class Played:
    """The planner, the transaction and the processes; plans are made as soon as `may_plan` is set.

    `outcomes` are of plans, in turn: exceptions, or whether the deployment is another one.
    """

    def __init__(self, *outcomes, failure=None):
        self.outcomes, self.failure = list(outcomes), failure
        self.may_plan = threading.Event()
        self.may_plan.set()
        self.requests, self.came_up_as, self.reloads = [], [], []
        self.given_up = self.undone = 0
        self.counts = ChangeCounts()
        self.told = asyncio.Queue()
        self.front_end = SimpleNamespace(write=self.told.put_nowait)
        self.current = SimpleNamespace(generation=SimpleNamespace(number=1))
        self.queue = ChangeQueue(self, self, self, self, lambda plan: None)

    def plan(self, request):
        self.may_plan.wait()
        self.requests.append(request)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return SimpleNamespace(
            lines=("member a: changed",) if outcome else (),
            warnings=(),
            is_new=outcome,
            plan=None,
            base=None,
            exchange=None,
            reload="keys",
        )

    def came_up(self, _change, generation):
        self.came_up_as.append(generation)

    def give_up(self):
        self.given_up += 1

    async def make(self, *_change):
        if self.failure is not None:
            raise self.failure
        self.current.generation.number += 1

    def undo(self, _why):
        self.undone += 1

    def reload(self, reload):
        self.reloads.append(reload)

    def report_changes(self, counts):
        self.counts = counts


def results(played, *requests):
    """The results of requests that are submitted at once."""

    async def run():
        running = asyncio.create_task(played.queue.run())
        found = await asyncio.gather(*[played.queue.submit(one) for one in requests])
        running.cancel()
        return found

    return asyncio.run(run())


def test_what_changes_and_what_stays():
    played = Played(True, False)
    first, second = results(played, RELOAD, UnloadRequest("a"))
    assert (first.generation, first.changes, first.error) == (2, ("member a: changed",), "")
    assert (second.generation, second.changes) == (2, ())
    assert played.came_up_as == [2, 2]
    assert played.reloads == ["keys"] * 2
    assert played.counts == ChangeCounts(succeeded=2)


@pytest.mark.parametrize(
    ("outcome", "failure", "text", "counts"),
    [
        (ConfigError("a: b"), None, "a: b", {"refused": 1}),
        (StartError("no model"), None, "no model", {"failed": 1}),
        (RuntimeError("unforeseen"), None, "RuntimeError: unforeseen", {"failed": 1}),
        (True, ChangeFailed("it died"), "it died", {"failed": 1}),
    ],
)
def test_what_fails_changes_nothing_and_the_next_request_counts(
    outcome, failure, text, counts, caplog
):
    played = Played(outcome, False, failure=failure)
    failed, then = results(played, RELOAD, UnloadRequest("a"))
    assert (failed.generation, failed.error, failed.is_wrong) == (1, text, "refused" in counts)
    assert f"nothing is changed: {text}" in caplog.text
    assert then.error == ""
    assert (played.given_up, played.came_up_as, played.reloads) == (1, [1], ["keys"])
    assert played.counts == ChangeCounts(succeeded=1, **counts)


def test_a_dry_run_changes_nothing():
    played = Played(True, True)
    requests = ReloadRequest(dry_run=True), PlaceRequest("{}", dry_run=True)
    for result in results(played, *requests):
        assert (result.generation, result.changes) == (1, ("member a: changed",))
    assert (played.came_up_as, played.reloads, played.counts) == ([], [], ChangeCounts())


def test_equal_requests_that_wait_are_one_but_only_next_to_each_other():
    async def run():
        played = Played(True, True, True, True)
        played.may_plan.clear()
        running = asyncio.create_task(played.queue.run())
        submit = played.queue.submit
        waiting = [submit(RELOAD)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # that one is being planned
        waiting += [submit(RELOAD), submit(RELOAD), submit(UnloadRequest("a")), submit(RELOAD)]
        played.may_plan.set()
        found = [result.generation for result in await asyncio.gather(*waiting)]
        running.cancel()
        assert found == [2, 3, 3, 4, 5]
        assert played.requests == [RELOAD, RELOAD, UnloadRequest("a"), RELOAD]

    asyncio.run(run())


def test_the_queue_is_bounded_and_closes():
    async def run():
        played = Played()
        waiting = [played.queue.submit(UnloadRequest(f"m{i}")) for i in range(33)]
        assert (await waiting[-1]).error == "32 changes are waiting"
        played.queue.close()
        assert {(await one).error for one in waiting[:-1]} == {"the server is stopping"}
        assert (await played.queue.submit(RELOAD)).error == "the server is stopping"
        assert played.undone == 1

    asyncio.run(run())


def test_a_client_is_answered():
    async def run():
        played = Played(True)
        running = asyncio.create_task(played.queue.run())
        played.queue.answer(Ask(7, RELOAD))
        answer = await asyncio.wait_for(played.told.get(), 10)
        running.cancel()
        assert isinstance(answer, Answer)
        assert (answer.id, answer.result.generation) == (7, 2)

    asyncio.run(run())
