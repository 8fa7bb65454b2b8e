"""Which endpoint a name and a version mean, and where requests wait while a model is replaced."""

import asyncio
import time

import pytest
from arenas import ensemble

from server.engine.spec import ServedModel
from server.errors import DeadlineExceeded, QueueFull, UnknownModel
from server.inference.deployments import Deployments
from server.inference.requests import InferRequest, RequestParameters
from server.inference.spec import DeploymentSpec, InputSpec, ModelSpec, StoredView
from server.rollout.spec import RolloutSpec
from workers.runtime.spec import GenerationSpec, TensorSpec

MAX_WAITING = 2
INPUT = InputSpec(TensorSpec("x", "FP32", (2,)), (StoredView(0, 1),))


class PlayedEngine:
    """An engine that can answer some models; `unable` are those that it can't."""

    def __init__(self):
        self.unable = set()
        self.requests = set()
        self.fleet = self
        self.added, self.removed = [], []

    def can_answer(self, served):
        return served.name not in self.unable

    def add(self, generation, instances):
        self.added.append(generation.number)

    def remove(self, generation):
        self.removed.append(generation.number)

    def is_idle(self, generation):
        return True

    def hold(self, generation, models, members):
        return set()

    def uses(self, members):
        return False


def spec(number, *names, deadline_s=0.0, tried=()):
    models = tuple(
        ModelSpec(ServedModel(number, place, ensemble(name, (0,)), deadline_s), (INPUT,), ("m",))
        for place, name in enumerate(names)
    )
    rollouts = tuple(
        RolloutSpec(model=name, version=version, mode="canary", percent=1.0)
        for name, version in tried
    )
    return DeploymentSpec(GenerationSpec(number, 0, 0, ()), {}, models, rollouts=rollouts)


def served(*names, **options):
    engine = PlayedEngine()
    return Deployments(spec(1, *names, **options), engine, MAX_WAITING), engine


def meant(deployments, name, version=""):
    model = deployments.find(name, version).model
    return model.served.name, model.generation


def test_without_a_version_the_newest_is_meant():
    deployments, _ = served("cat@2", "cat@10", "dog")
    assert meant(deployments, "cat") == ("cat@10", 1)
    assert meant(deployments, "cat", "2") == ("cat@2", 1)
    assert meant(deployments, "dog") == meant(deployments, "dog", "1") == ("dog", 1)


@pytest.mark.parametrize(
    ("name", "version", "text"),
    [
        ("cow", "", "'cow' is not found"),
        ("cow", "3", "'cow' is not found"),
        ("cat", "3", "'cat' version 3 is not found, it has version 10, 2"),
        ("cat@2", "", "'cat@2' is not found"),
    ],
)
def test_what_there_is_not(name, version, text):
    deployments, _ = served("cat@2", "cat@10")
    with pytest.raises(UnknownModel, match=text):
        deployments.find(name, version)


def test_a_version_that_is_rolled_out_is_only_meant_by_its_number():
    deployments, _ = served("cat@1", "cat@2", tried=[("cat", "2")])
    assert meant(deployments, "cat") == ("cat@1", 1)
    assert meant(deployments, "cat", "2") == ("cat@2", 1)


def test_the_newest_that_can_answer_is_meant_or_else_the_newest():
    deployments, engine = served("cat@1", "cat@2")
    renewed = []
    deployments.on_routes(lambda: renewed.append(meant(deployments, "cat")))
    newest, older = deployments.find("cat", "2"), deployments.find("cat", "1")
    assert deployments.is_route(newest, "")
    engine.on_available()
    assert renewed == [], "nothing is different"
    engine.unable = {"cat@2"}
    engine.on_available()
    assert (deployments.is_route(newest, ""), deployments.is_route(older, "")) == (False, True)
    engine.unable = {"cat@1", "cat@2"}
    engine.on_available()
    assert renewed == [("cat@1", 1), ("cat@2", 1)]


def test_a_switch_is_one_step_and_counters_go_on():
    deployments, engine = served("cat", "dog")
    seen = []
    deployments.on_routes(lambda: seen.append(meant(deployments, "cat")))
    former, counters = deployments.find("cat"), deployments.find("cat").counters
    deployments.add(spec(2, "cat", "cow"))
    assert meant(deployments, "cat") == ("cat", 1)
    old = deployments.switch(2)
    assert (old.generation, seen) == (1, [("cat", 2)])
    assert deployments.find("cat").counters is counters
    assert (former.is_open, deployments.is_route(former, "")) == (False, False)
    with pytest.raises(UnknownModel):
        deployments.find("dog")
    deployments.remove(old)
    assert (engine.added, engine.removed) == ([2], [1])


def request(timeout_s=0.0):
    return InferRequest("", [], parameters=RequestParameters(timeout_s=timeout_s))


async def turns():
    for _ in range(5):
        await asyncio.sleep(0)


def enter(deployments, endpoint, timeout_s=0.0, version="", within_s=0.0):
    coroutine = deployments.enter(endpoint, version, request(timeout_s), time.monotonic(), within_s)
    return asyncio.get_running_loop().create_task(coroutine)


def test_requests_to_a_model_that_is_held_back_wait_for_the_switch():
    async def run():
        deployments, _ = served("cat", "dog")
        cat = deployments.find("cat")
        assert deployments.hold(["cat"], ["m"])()
        assert (cat.is_open, deployments.find("dog").is_open) == (False, True)
        waiting = [enter(deployments, cat) for _ in range(MAX_WAITING)]
        await turns()
        with pytest.raises(QueueFull, match="2 requests to 'cat' wait"):
            await enter(deployments, cat)
        waiting.pop().cancel()  # its client has gone, and another one may wait
        await turns()
        waiting.append(enter(deployments, cat, version="1"))
        await turns()
        assert not any(task.done() for task in waiting)
        deployments.add(spec(2, "cat"))
        deployments.switch(2)
        await turns()
        assert [task.result().model.generation for task in waiting] == [2, 2]
        assert not deployments._door._waiting

    asyncio.run(run())


def test_what_was_held_back_is_served_again_if_there_is_no_switch():
    async def run():
        deployments, _ = served("cat")
        cat = deployments.find("cat")
        deployments.hold(["cat"], ["m"])
        waiting = enter(deployments, cat)
        await turns()
        deployments.resume()
        assert await waiting is cat
        assert cat.is_open

    asyncio.run(run())


def test_a_model_that_is_gone_after_the_switch_is_unknown():
    async def run():
        deployments, _ = served("cat")
        cat = deployments.find("cat")
        deployments.hold(["cat"], ["m"])
        waiting = enter(deployments, cat)
        await turns()
        deployments.add(spec(2, "cow"))
        deployments.switch(2)
        with pytest.raises(UnknownModel, match="'cat' is not found"):
            await waiting

    asyncio.run(run())


@pytest.mark.parametrize(
    ("timeout_s", "deadline_s", "within_s"), [(1e-9, 0, 0), (0, 1e-9, 0), (9, 9, 1e-9)]
)
def test_nobody_waits_longer_than_the_request_may_take(timeout_s, deadline_s, within_s):
    async def run():
        deployments, _ = served("cat", deadline_s=deadline_s)
        cat = deployments.find("cat")
        deployments.hold(["cat"], ["m"])
        with pytest.raises(DeadlineExceeded, match="while 'cat' was replaced"):
            await enter(deployments, cat, timeout_s, within_s=within_s)

    asyncio.run(run())


def test_those_that_are_on_their_way_are_waited_for():
    deployments, _ = served("cat")
    cat = deployments.find("cat")
    cat.pins += 1
    is_over = deployments.hold(["cat"], ["m"])
    assert not is_over()
    deployments.add(spec(2, "cat"))
    former = deployments.switch(2)
    assert not deployments.is_idle(former)
    cat.pins -= 1
    assert is_over()
    assert deployments.is_idle(former)
