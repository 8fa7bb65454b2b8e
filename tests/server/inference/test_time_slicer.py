import asyncio

import pytest

from server.errors import InvalidRequest
from server.inference.time_slicer import TimeSlicer, run_to_end


def count_to(last, log=None, name=""):
    for number in range(last):
        if log is not None:
            log.append((name, number))
        yield
    return last


def fail():
    yield
    raise InvalidRequest("no")


def test_all_steps_at_once():
    assert run_to_end(count_to(3)) == 3
    with pytest.raises(InvalidRequest):
        run_to_end(fail())


def test_steps_in_turns_end_in_the_same_way():
    async def both():
        turns = TimeSlicer()
        assert await asyncio.gather(*(turns.run(count_to(n)) for n in range(20))) == [*range(20)]
        with pytest.raises(InvalidRequest):
            await turns.run(fail())
        assert await turns.run(count_to(1)) == 1

    asyncio.run(both())


def test_who_is_cancelled_keeps_nobody_waiting():
    def endless():
        while True:
            yield

    async def cancel():
        turns = TimeSlicer()
        task = asyncio.create_task(turns.run(endless()))
        other = asyncio.create_task(turns.run(count_to(5)))
        assert await other == 5  # though the first has no end
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await turns.run(count_to(5)) == 5

    asyncio.run(cancel())
