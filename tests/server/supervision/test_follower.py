"""The loop around the controller, with a plan of fakes and a queue of changes that is played."""

import asyncio
import logging

import pytest
import yaml

from allocator.matrix import AllocationMatrix
from server.config import load_config
from server.control import ChangeResult
from server.deployment.plan import make_plan
from server.following.search import find_better
from server.following.traffic import Traffic
from server.supervision import follower as following
from server.supervision.follower import Follower, stages_of

pytestmark = pytest.mark.anyio
WAIT_S = 20


@pytest.fixture
def anyio_backend():
    return "asyncio"


def part(name):
    return {"name": name, "part_of": "cpu", "cores": [0], "memory_bytes": "1GiB"}


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setenv("ENSEMBLED_CACHE", str(tmp_path / "cache"))
    fake = {
        "model": "fake",
        "fake": {"inputs": {"x": [4]}, "outputs": 2},
        "output": "probabilities",
    }

    def make(**placement):
        document = {
            "members": {"a": fake, "b": fake, "c": fake},
            "ensembles": {
                "both": {"members": ["b", "a"]},
                "stages": {
                    "members": ["c", "a", "b"],
                    "cascade": [["c"], ["a", "b"]],
                    "confidence": [0.9],
                },
            },
            "devices": [part("cpu:0"), part("cpu:1")],
            "placement": {"spare_memory": "leave", **placement},
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(document))
        return make_plan(load_config(path), profile_s=0.0)

    return make


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(following, "_INTERVAL_S", 0.01)
    monkeypatch.setattr(following, "search_in_child", find_better)


class Site:
    """The queue of changes, and the devices that are down."""

    def __init__(self, *errors):
        self.errors, self.asked, self.down = list(errors), asyncio.Queue(), set()
        self.follower = Follower(self.change, lambda: self.down)

    async def change(self, request):
        self.asked.put_nowait(request)
        return ChangeResult(2, error=self.errors.pop(0) if self.errors else "")


def test_the_stages_of_models(make):
    assert stages_of(make().composition.models) == {
        "both": [["b", "a"]],
        "stages": [["c"], ["a", "b"]],
        "a": [["a"]],
        "b": [["b"]],
        "c": [["c"]],
    }


class Lines(logging.Handler):
    """What the follower logs."""

    def __init__(self):
        super().__init__()
        self.lines = asyncio.Queue()

    def emit(self, record):
        self.lines.put_nowait(record.getMessage())

    async def wait(self, text):
        async with asyncio.timeout(WAIT_S):
            while text not in await self.lines.get():
                pass


@pytest.fixture
async def log(caplog):
    logger = logging.getLogger(following.__name__)
    caplog.set_level(logging.INFO, logger.name)
    lines = Lines()
    logger.addHandler(lines)
    yield lines
    logger.removeHandler(lines)


async def followed(site, plan):
    site.follower.serve(1, plan)
    running = asyncio.create_task(site.follower.run())
    site.down = {"cpu:1"}
    request = await asyncio.wait_for(site.asked.get(), WAIT_S)
    return running, request


async def test_members_of_a_lost_device_are_placed_on_what_is_left(make, log):
    site = Site()
    running, request = await followed(site, make(follow=True))
    matrix = AllocationMatrix.from_json(request.matrix)
    assert matrix.devices == ("cpu:0",)
    assert "lost: cpu:1" in request.reason
    await log.wait("the allocation changes: ")
    running.cancel()


async def test_a_refusal_is_told_and_ends_nothing(make, log):
    site = Site("no room for it")
    running, _ = await followed(site, make(follow=True))
    await log.wait("the allocation could not be changed: no room for it")
    assert not running.done()
    running.cancel()


async def test_nothing_is_followed_unless_it_is_asked_for(make):
    site = Site()
    plan = make()
    assert not plan.is_followed
    site.follower.serve(1, plan)
    site.follower.observe(Traffic(1, 2.0))
    site.down = {"cpu:1"}
    running = asyncio.create_task(site.follower.run())
    for _ in range(10):
        await asyncio.sleep(0)
    assert site.asked.empty()
    running.cancel()


async def test_a_fault_of_ours_ends_following_and_not_the_server(make, log, monkeypatch):
    def fails(task):
        raise RuntimeError("a bug")

    monkeypatch.setattr(following, "search_in_child", fails)
    site = Site()
    site.follower.serve(1, make(follow=True))
    site.down = {"cpu:1"}
    running = asyncio.create_task(site.follower.run())
    await log.wait("following the traffic failed")
    assert not running.done()
    running.cancel()
