import asyncio
import threading

import pytest

from server.metrics.sampler import Sampler


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_a_sample_is_cached_for_a_second():
    taken, clock = [], Clock()
    one = Sampler(lambda: taken.append(1) or len(taken), "test", clock=clock)

    async def main():
        first = await one.sample()
        clock.now += 0.5
        again = await one.sample()
        clock.now += 1.0
        return first, again, await one.sample()

    assert asyncio.run(main()) == (1, 1, 2)


def test_a_hanging_sample_times_out_and_is_taken_once():
    release, asked, clock = threading.Event(), [], Clock()

    def take():
        asked.append(1)
        release.wait(30)
        return "late"

    one = Sampler(take, "test", timeout_s=0.01, clock=clock)

    async def main():
        for _ in range(3):
            clock.now += 10
            with pytest.raises(TimeoutError):
                await one.sample()
        release.set()
        while True:
            try:
                return await one.sample()
            except TimeoutError:
                continue

    assert asyncio.run(main()) == "late"
    assert len(asked) == 1


def test_an_error_is_raised_and_sampling_retried():
    answers, clock = iter([ZeroDivisionError(), "fine"]), Clock()

    def take():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    one = Sampler(take, "test", clock=clock)

    async def main():
        with pytest.raises(ZeroDivisionError):
            await one.sample()
        clock.now += 2
        return await one.sample()

    assert asyncio.run(main()) == "fine"
