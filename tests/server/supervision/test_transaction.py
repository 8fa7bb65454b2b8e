"""A change, step by step, with children that are played: whatever fails or dies, and when."""

import asyncio
import os
from types import SimpleNamespace

import pytest

from server.deployment.exchange import Exchange
from server.inference.commands import (
    Drained,
    Held,
    Hold,
    Prepare,
    Prepared,
    Release,
    Released,
    Resume,
    Switch,
    Switched,
)
from server.inference.spec import DeploymentSpec
from server.supervision import transaction
from server.supervision.live import LiveDeployments
from server.supervision.transaction import ChangeFailed, Transaction
from workers.runtime.memory import add_range, create_memory
from workers.runtime.spec import (
    DeviceSpec,
    GenerationSpec,
    Load,
    Loaded,
    Unload,
    Unloaded,
)

CPU0, CPU1, CPU2 = (DeviceSpec(f"cpu:{i}", "cpu-1", 1 << 30, (i,)) for i in range(3))
TOGETHER, APART = Exchange(), Exchange(("cpu:0",), ("m",), ("m",), ())
DIES, SILENT = "dies", "silent"


class PlayedChild:
    """A child that answers each command at once, unless `script` says otherwise, by its type."""

    def __init__(self, scene, name, device=None):
        self.scene, self.name, self.device = scene, name, device
        self.alive = self.serves = True
        self.is_down = False
        self.due = SimpleNamespace(set=self.start_soon)
        self.mends = True
        self.script = {}
        self.told = []

    def write(self, message):
        if not self.alive:
            return
        self.told.append(message)
        action = self.script.get(type(message))
        if action == DIES:
            asyncio.get_running_loop().call_soon(self.die)
        elif action != SILENT:
            for report in self.answers(message, action or ""):
                self.scene.later(self, report)

    def answers(self, message, error):
        if isinstance(message, Switch):
            former = self.scene.live.draining[-1].generation.number
            drained = [Drained(former)] if self.scene.drains else []
            return [Switched(message.generation), *drained]
        answers = {
            Load: lambda: Loaded(message.generation.number, error),
            Unload: lambda: Unloaded(message.generation),
            Prepare: lambda: Prepared(message.deployment.generation.number, error),
            Hold: lambda: Held(message.generation),
            Release: lambda: Released(message.generation),
        }
        return [answers[type(message)]()] if type(message) in answers else []

    def kill(self):
        if self.alive:
            asyncio.get_running_loop().call_soon(self.die)

    def die(self):
        self.alive = self.serves = False
        self.scene.transaction.on_end(self, "killed")

    def start(self):
        self.alive = self.serves = True
        self.is_down = False
        self.scene.transaction.on_up(self)

    def start_soon(self):
        """What a child does that is due."""
        loads = self.scene.live.loads(self.device.name, is_down=self.is_down)
        self.told.append([load.generation.number for load in loads])
        asyncio.get_running_loop().call_soon(self.start if self.mends else self.die)

    def kinds(self):
        return [type(message) for message in self.told]


class Scene:
    """Played processes: two slots for workers, one of them spare."""

    def __init__(self, devices=(CPU0,), slots=2):
        self.drains = True
        self.combiner = PlayedChild(self, "combiner")
        self.front_end = PlayedChild(self, "front-end")
        self.workers = {one.name: self.worker(one) for one in devices}
        self.slots, self.new_worker_dies = slots, False
        self.fd = create_memory(4096)
        self.memory_watch = SimpleNamespace(follow=lambda _: None)
        self.retired = []
        first = self.spec(1, devices)
        self.live = LiveDeployments(first)
        self.transaction = Transaction(self, self.live, 0.01)

    def worker(self, device):
        return PlayedChild(self, f"worker {device.name}", device)

    def spec(self, number, devices):
        offset, nbytes = add_range(self.fd, 4096)
        os.pwrite(self.fd, b"x", offset)
        generation = GenerationSpec(number, offset, nbytes, ())
        return DeploymentSpec(generation, {one.name: () for one in devices}, ())

    def later(self, child, report):
        asyncio.get_running_loop().call_soon(self.transaction.on_report, child, report)

    @property
    def devices(self):
        return tuple(worker.device for worker in self.workers.values())

    @property
    def memory(self):
        spare = [""] * (self.slots - len(self.workers))
        queues = SimpleNamespace(devices=(*self.workers, *spare))
        return SimpleNamespace(spec=SimpleNamespace(fd=self.fd, queues=queues))

    def attach(self, device):
        worker = self.workers[device.name] = self.worker(device)
        worker.alive = worker.serves = False
        begin = worker.die if self.new_worker_dies else worker.start
        asyncio.get_running_loop().call_soon(begin)

    async def retire(self, worker):
        self.retired.append(worker.name)
        del self.workers[worker.device.name]

    def note_memory(self, workers):
        pass

    @property
    def children(self):
        return [self.combiner, self.front_end, *self.workers.values()]

    async def change(self, *devices, exchange=TOGETHER):
        """Go to a deployment on these devices; why that failed, or ""."""
        plan = SimpleNamespace(devices=devices)
        try:
            await self.transaction.make(plan, None, exchange)
        except ChangeFailed as error:
            return str(error)
        if self.drains:
            await self.transaction.settle()
        return ""

    def blocks(self):
        """How many pages of deployments take memory."""
        return os.fstat(self.fd).st_blocks // 8


@pytest.fixture
def scene(monkeypatch):
    scenes = []

    def spec(plan, _base, _fd, number):
        return scenes[-1].spec(number, plan.devices)

    def make(*args, **options):
        scenes.append(Scene(*args, **options))
        return scenes[-1]

    monkeypatch.setattr(transaction, "deployment_spec", spec)
    yield make
    for one in scenes:
        os.close(one.fd)


def test_the_steps_of_a_change(scene):
    async def run():
        one = scene()
        assert await one.change(CPU0) == ""
        assert one.front_end.kinds() == [Prepare, Switch, Release]
        assert one.combiner.kinds() == one.workers["cpu:0"].kinds() == [Load, Unload]
        assert [deployment.generation.number for deployment in one.live] == [2]
        assert one.blocks() == 1

    asyncio.run(run())


FAULTS = [
    *[(role, Load, fault) for role in ("combiner", "cpu:0") for fault in (DIES, "it is broken")],
    ("front-end", Prepare, DIES),
    ("front-end", Prepare, "it can't"),
]


def child_of(scene, role):
    return next(child for child in scene.children if child.name.endswith(role))


@pytest.mark.parametrize(("role", "command", "fault"), FAULTS)
@pytest.mark.parametrize("exchange", [TOGETHER, APART])
def test_what_fails_before_the_switch_undoes_the_change(scene, role, command, fault, exchange):
    async def run():
        one = scene()
        before = one.live.current
        child = child_of(one, role)
        child.script = {command: fault}
        error = await one.change(CPU0, exchange=exchange)
        assert error == (f"{child.name} died: killed" if fault == DIES else fault)
        assert (one.live.current, one.live.coming, one.live.draining) == (before, None, [])
        assert one.blocks() == 1
        assert Switch not in one.front_end.kinds()
        for other in one.children:
            assert not other.alive or other.kinds()[-1] in {Unload, Release, Resume, Load}
        if exchange and one.front_end.alive:
            assert one.front_end.told[-1] == Resume()
        child.script = {}
        await asyncio.sleep(0)  # a worker that can't load what went, either, is killed
        if not child.alive:
            child.start()
        assert await one.change(CPU0, exchange=exchange) == ""
        assert one.live.current.generation.number == 3
        assert one.blocks() == 1

    asyncio.run(run())


@pytest.mark.parametrize("role", ["combiner", "cpu:0", "front-end"])
@pytest.mark.parametrize("waits_for", [Load, Prepare])
def test_a_death_at_any_time_before_the_switch_undoes_the_change(scene, role, waits_for):
    async def run():
        one = scene()
        for child in one.children:
            child.script = {waits_for: SILENT}
        change = asyncio.create_task(one.change(CPU0))
        await until(lambda: any(waits_for in child.kinds() for child in one.children))
        assert one.live.coming is not None
        child_of(one, role).die()
        assert one.live.coming is None  # before anything can be started with it
        assert await change == f"{child_of(one, role).name} died: killed"
        assert one.blocks() == 1

    asyncio.run(run())


async def until(condition):
    for _ in range(100):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not come to that")


def test_a_death_that_does_not_concern_the_new_deployment_undoes_nothing(scene):
    async def run():
        one = scene((CPU0, CPU1))
        one.workers["cpu:0"].script = {Load: SILENT}
        change = asyncio.create_task(one.change(CPU0))
        await until(lambda: Load in one.workers["cpu:0"].kinds())
        gone = one.workers["cpu:1"]
        gone.die()
        one.later(one.workers["cpu:0"], Loaded(2))
        assert await change == ""
        assert one.retired == [gone.name]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("role", "command"),
    [("front-end", Switch), ("front-end", Release), ("combiner", Unload), ("cpu:0", Unload)],
)
def test_from_the_switch_on_nothing_undoes_the_change(scene, role, command):
    async def run():
        one = scene()
        child_of(one, role).script = {command: DIES}
        assert await one.change(CPU0) == ""
        assert [deployment.generation.number for deployment in one.live] == [2]
        assert one.blocks() == 1

    asyncio.run(run())


def test_a_front_end_that_does_not_switch_and_a_worker_that_does_not_unload_are_killed(
    scene, monkeypatch
):
    monkeypatch.setattr(transaction, "_SWITCH_S", 0.01)
    monkeypatch.setattr(transaction, "_LOAD_S", 0.01)

    async def run():
        one = scene()
        one.front_end.script = {Switch: SILENT}
        one.workers["cpu:0"].script = {Unload: SILENT}
        assert await one.change(CPU0) == ""
        assert (one.front_end.alive, one.workers["cpu:0"].alive) == (False, False)
        assert one.blocks() == 1

    asyncio.run(run())


def test_what_loads_for_ever_ends_the_change(scene, monkeypatch):
    monkeypatch.setattr(transaction, "_LOAD_S", 0.01)

    async def run():
        one = scene()
        one.workers["cpu:0"].script = {Load: SILENT, Unload: SILENT}
        assert "it took more than" in await one.change(CPU0)
        assert not one.workers["cpu:0"].alive

    asyncio.run(run())


def test_no_change_begins_while_the_former_deployment_drains(scene):
    async def run():
        one = scene()
        one.drains = False
        assert await one.change(CPU0) == ""
        assert "generation 1 still answers requests" in await one.change(CPU0)
        one.later(one.front_end, Drained(1))
        await one.transaction.settle()
        assert await one.change(CPU0) == ""
        one.front_end.die()  # what drains is over with its clients
        await one.transaction.settle()
        assert [deployment.generation.number for deployment in one.live] == [3]

    asyncio.run(run())


def test_workers_of_new_devices_start_and_those_without_instances_end(scene):
    async def run():
        one = scene()
        assert await one.change(CPU1) == ""
        assert one.retired == ["worker cpu:0"]
        assert await one.change(CPU0, CPU1) == ""
        assert set(one.workers) == {"cpu:0", "cpu:1"}
        error = await one.change(CPU0, CPU1, CPU2)
        assert "there is space for 0 more workers, not for those of cpu:2" in error

    asyncio.run(run())


def test_a_new_worker_that_does_not_start_undoes_the_change(scene):
    async def run():
        one = scene()
        one.new_worker_dies = True
        assert await one.change(CPU0, CPU1) == "worker cpu:1 died: killed"
        assert one.retired == ["worker cpu:1"]
        assert one.blocks() == 1

    asyncio.run(run())


def test_a_worker_that_is_down_is_started_with_what_comes_alone(scene):
    async def run():
        one = scene((CPU0, CPU1))
        worker = one.workers["cpu:0"]
        worker.is_down, worker.serves, worker.alive = True, False, False
        assert await one.change(CPU0, CPU1) == ""
        assert worker.told[0] == [2], "not the one that it can't load"
        assert worker.kinds()[1:] == [Load, Unload]
        assert one.live.current.generation.number == 2
        # It can't load this one either.
        worker.is_down, worker.serves, worker.alive = True, False, False
        worker.mends = False
        assert await one.change(CPU0, CPU1) == "worker cpu:0 died: killed"
        assert one.live.current.generation.number == 2
        # It can, but another one can't: then it is started with what is served.
        worker.mends = True
        one.workers["cpu:1"].script[Load] = "no space"
        assert await one.change(CPU0, CPU1) == "no space"
        await asyncio.sleep(0)
        assert not worker.alive
        assert one.live.current.generation.number == 2

    asyncio.run(run())


def test_a_fault_of_ours_undoes_the_change_as_well(scene):
    async def run():
        one = scene()
        write = one.combiner.write

        def fail(message):
            if isinstance(message, Load):
                raise RuntimeError("a fault of ours")
            write(message)

        one.combiner.write = fail
        with pytest.raises(RuntimeError, match="a fault of ours"):
            await one.change(CPU0)
        assert one.live.coming is None
        assert one.blocks() == 1
        one.combiner.write = write
        assert await one.change(CPU0) == ""

    asyncio.run(run())


def test_another_device_of_its_name_refuses_the_change(scene):
    async def run():
        one = scene()
        worker = one.workers["cpu:0"]
        other = DeviceSpec("cpu:0", "cpu-1", 1 << 30, (1,))
        assert "cpu:0 can't change" in await one.change(other)
        more = DeviceSpec("cpu:0", "cpu-1", 1 << 31, (0,))
        assert await one.change(more) == ""
        assert worker.device == more

    asyncio.run(run())


def test_a_change_waits_for_children_that_are_being_restarted(scene):
    async def run():
        one = scene()
        one.combiner.alive = one.combiner.serves = False
        change = asyncio.create_task(one.change(CPU0))
        await asyncio.sleep(0)
        one.combiner.start()
        assert await change == ""

    asyncio.run(run())


def test_a_server_that_stops_undoes_what_has_not_come_to_the_switch(scene):
    async def run():
        one = scene()
        one.workers["cpu:0"].script = {Load: SILENT}
        change = asyncio.create_task(one.change(CPU0))
        await until(lambda: Load in one.workers["cpu:0"].kinds())
        one.transaction.undo("the server is stopping")
        assert await change == "the server is stopping"
        assert one.blocks() == 1
        one.transaction.undo("nothing is being changed now")

    asyncio.run(run())


def test_a_system_that_refuses_memory(scene, monkeypatch):
    async def run():
        one = scene()

        def refuse(*_args):
            raise OSError("no memory")

        with monkeypatch.context() as patch:
            patch.setattr(transaction, "deployment_spec", refuse)
            assert await one.change(CPU0) == "no memory"
        assert await one.change(CPU0) == ""

    asyncio.run(run())
