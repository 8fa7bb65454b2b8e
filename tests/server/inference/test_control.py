import asyncio

import pytest

from server.control import Answer, ChangeResult, ReloadRequest, UnloadRequest
from server.errors import QueueFull
from server.inference.control import Control


class Supervisor:
    """Keeps what it is asked."""

    def __init__(self):
        self.asked = []

    def control(self, epoch=1):
        return Control(self.asked.append, epoch)


def test_everyone_gets_the_answer_to_what_he_has_asked():
    async def run():
        supervisor = Supervisor()
        control = supervisor.control()
        requests = [ReloadRequest(), UnloadRequest("m"), ReloadRequest(dry_run=True)]
        tasks = [asyncio.create_task(control.ask(request)) for request in requests]
        await asyncio.sleep(0)
        assert [ask.request for ask in supervisor.asked] == requests
        for ask in reversed(supervisor.asked):
            control.answer(Answer(ask.id, ChangeResult(ask.id, (str(ask.request),))))
        results = await asyncio.gather(*tasks)
        assert [result.changes for result in results] == [(str(one),) for one in requests]

    asyncio.run(run())


def test_no_front_end_takes_the_answer_to_another():
    async def run():
        supervisor = Supervisor()
        first, second = supervisor.control(1), supervisor.control(2)
        tasks = [asyncio.create_task(one.ask(ReloadRequest())) for one in (first, second)]
        await asyncio.sleep(0)
        lost, asked = supervisor.asked
        second.answer(Answer(lost.id, ChangeResult(1)))
        second.answer(Answer(asked.id, ChangeResult(2)))
        assert (await tasks[1]).generation == 2
        assert not tasks[0].done()
        tasks[0].cancel()

    asyncio.run(run())


def test_what_waits_is_bounded_and_counts_until_it_is_answered():
    async def run():
        supervisor = Supervisor()
        control = supervisor.control()
        tasks = [asyncio.create_task(control.ask(ReloadRequest())) for _ in range(16)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="16 changes of what is served are waiting"):
            await control.ask(ReloadRequest())
        tasks[0].cancel()  # the supervisor is at it all the same
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await control.ask(ReloadRequest())
        control.answer(Answer(supervisor.asked[0].id, ChangeResult(1)))
        last = asyncio.create_task(control.ask(ReloadRequest()))
        await asyncio.sleep(0)
        for ask in supervisor.asked[1:]:
            control.answer(Answer(ask.id, ChangeResult(2)))
        assert (await last).generation == 2
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
