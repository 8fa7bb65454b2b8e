"""Deployments that come and go while requests flow, on a stage: in any order of events."""

import gc
import weakref

from hypothesis import given, settings
from hypothesis import strategies as st
from stage import ALL, DEVICES, FAILS, SPEC, SURE, UNSURE, deployment, on_stage, said_generation

from allocator.dispatch.flows import HIGH
from server.errors import DeadlineExceeded, RequestError
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

OPTIONS = (
    ("all", {"class_only": True}),
    ("some", {}),
    ("some", {"class_only": True, "priority": HIGH}),
    ("all", {}),
    ("some", {"members": 0b101, "masks": True}),
    ("staged", {}),
    ("staged", {"scores": True, "predictions": (0, 2)}),
)
#: At most so many deployments: more can't be told apart by what they predict.
MOST = 12


class Clients:
    """Requests to the stage's models, as they are routed, and what must come of them."""

    def __init__(self, stage):
        self.stage = stage
        self.requests = []
        self.pinned = []

    def find(self, name):
        endpoint = self.stage.deployments.find(name)
        return endpoint if endpoint.is_open else None

    def submit(self, name, rows, **options):
        """A request without a pause between its look-up and the engine."""
        if (endpoint := self.find(name)) is not None:
            self.send(endpoint, rows, options)

    def pin(self, name, rows, **options):
        """A request that is on its way to its endpoint for a while."""
        if (endpoint := self.find(name)) is not None:
            endpoint.pins += 1
            self.pinned.append((endpoint, rows, options))

    def arrive(self):
        """All that were on their way."""
        while self.pinned:
            endpoint, rows, options = self.pinned.pop()
            self.send(endpoint, rows, options)
            endpoint.pins -= 1

    def send(self, endpoint, rows, options):
        request = self.stage.submit(endpoint.model.served, rows, **options)
        if request is not None:
            self.requests.append((endpoint.model.generation, request))

    def check(self):
        """Each has an outcome, and each answer is that of the generation that was asked."""
        for generation, request in self.requests:
            error = request.on_done.exception()
            assert error is None or isinstance(error, RequestError)
            if error is None:
                assert said_generation(request.on_done.result()) == generation


class Changes:
    """What the supervisor and the workers do."""

    def __init__(self, stage):
        self.stage = stage

    def prepare(self):
        if max(self.stage.generations) < MOST:
            self.stage.prepare()

    def load(self, *devices):
        for device in devices:
            if self.stage.fleet.workers[device].state.up:
                self.stage.load(device)

    def change(self):
        """From the first to the last step, unless a worker is missing."""
        self.prepare()
        self.load(*DEVICES)
        self.stage.turn()
        self.stage.switch()

    def release(self, number):
        """The oldest one, or one that comes."""
        numbers = sorted(self.stage.generations)
        self.stage.release(numbers[-1] if number % 4 == 0 else numbers[0])


class Exchange:
    """A change for which member `a` must make room, as the supervisor has it made."""

    def __init__(self, stage):
        self.stage = stage
        self.coming = 0

    def hold(self):
        self.coming = max(self.stage.generations) + 1
        self.stage.changes.execute(Hold(self.coming, ("all",), ("a",)))

    def unload(self):
        """Once it is held, the workers drop the member; until they load all that there is."""
        if Held(self.coming) in self.stage.reports:
            number = self.stage.deployments.current.generation
            (arena,) = self.stage.generations[number].arenas
            for device, worker in self.stage.fleet.workers.items():
                if worker.state.up:
                    self.stage.loaded[device].discard(arena.index * len(SPEC.members))
                    self.stage.hello(device)

    def resume(self):
        """The workers have loaded it again."""
        for device, worker in self.stage.fleet.workers.items():
            if worker.state.up:
                self.stage.load(device)
        self.stage.changes.execute(Resume())


small = st.integers(0, 7)
events = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["submit", "pin"]), st.integers(0, 6), st.integers(1, 14)),
        st.tuples(st.sampled_from(["work", "work", "die", "revive", "kill"]), small, small),
        st.tuples(
            st.sampled_from(["turn", "hear", "combine", "scan", "restart", "close", "arrive"]),
            small,
            small,
        ),
        st.tuples(
            st.sampled_from(["prepare", "load", "change", "change", "switch", "release", "unload"]),
            small,
            small,
        ),
        st.tuples(st.sampled_from(["hold", "let go", "resume"]), small, small),
    ),
    max_size=100,
)


@given(events)
@settings(max_examples=200, deadline=None)
def test_every_request_has_one_outcome_of_one_generation(steps):
    with on_stage() as stage:
        clients, changes, exchange = Clients(stage), Changes(stage), Exchange(stage)
        for what, number, other in steps:
            device = ("d0", "d1")[number % 2]
            name, options = OPTIONS[number % len(OPTIONS)]
            {
                "submit": lambda n=name, r=other, o=options: clients.submit(n, r, **o),
                "pin": lambda n=name, r=other, o=options: clients.pin(n, r, **o),
                "arrive": clients.arrive,
                "work": lambda d=device, n=other: stage.work(d, (SURE, SURE, UNSURE, FAILS)[n % 4]),
                "kill": lambda d=device: stage.kill(d),
                "die": lambda d=device: stage.die(d),
                "revive": lambda d=device: stage.revive(d),
                "turn": stage.turn,
                "hear": lambda n=number: stage.hear(n + 1),
                "combine": lambda n=number: stage.combine(n + 1),
                "scan": stage.scan,
                "restart": stage.restart_combiner,
                "close": lambda n=number: stage.close(n),
                "prepare": changes.prepare,
                "load": lambda d=device: changes.load(d),
                "change": changes.change,
                "switch": stage.switch,
                "release": lambda n=number: changes.release(n),
                "unload": stage.unload,
                "hold": exchange.hold,
                "let go": exchange.unload,
                "resume": exchange.resume,
            }[what]()
        for device in DEVICES:
            stage.revive(device)
        exchange.resume()
        clients.arrive()
        stage.finish()
        clients.check()
        current = stage.deployments.current.generation
        for number in [one for one in stage.generations if one != current]:
            stage.changes.execute(Release(number))
        stage.finish()
        stage.unload()
        assert [*stage.generations] == [current]
        assert [*stage.engine.arenas] == [current - 1]
        assert all(len(w.placements) == len(w.counters) for w in stage.fleet.workers.values())
        assert len(stage.fleet._all_members) == len(SPEC.members)


def prepared(stage):
    """A deployment that can be switched to."""
    stage.prepare()
    for device in DEVICES:
        stage.load(device)
    stage.turn()
    number = max(stage.generations)
    assert Prepared(number) in stage.reports
    return number


def test_a_deployment_is_prepared_once_all_its_workers_have_said_hello():
    with on_stage() as stage:
        stage.prepare()
        stage.load("d0")
        stage.turn()
        assert stage.reports == []
        stage.die("d1")
        stage.turn()
        assert stage.reports == [], "it comes back with everything"
        stage.revive("d1")
        stage.turn()
        assert stage.reports == [Prepared(2)]


def test_the_order_of_hello_and_prepare_does_not_matter():
    with on_stage() as stage:
        for device in DEVICES:
            stage.loaded[device] |= {member + len(SPEC.members) for member in DEVICES[device]}
            stage.hello(device)
        stage.prepare()
        assert stage.reports == [Prepared(2)]


def test_a_worker_that_was_down_comes_with_what_is_prepared_alone():
    with on_stage() as stage:
        stage.kill("d1", for_good=True)
        stage.kill("d0", for_good=True)
        assert not stage.fleet.served(0)
        stage.prepare()
        for device in DEVICES:
            stage.engine.worker_started(device, stage.incarnation[device])
            stage.loaded[device] = {
                one.id for one in deployment(stage.generations[2]).instances[device]
            }
            assert stage.reports == []
            stage.hello(device)
            stage.turn()
        assert stage.reports == [Prepared(2)]
        assert not stage.fleet.served(0), "its worker is up, but does not have it"
        assert stage.submit(ALL, 1) is None
        stage.switch()
        assert stage.fleet.served(stage.generations[2].arenas[0].index) == 0b111


def test_a_deployment_for_a_device_without_a_worker_is_refused():
    with on_stage() as stage:
        spec = deployment(stage.generations[1])
        unknown = {"d2": spec.instances["d0"]}
        stage.changes.execute(Prepare(type(spec)(spec.generation, unknown, spec.models)))
        (report,) = stage.reports
        assert "no worker for d2" in report.error


def test_requests_finish_where_they_began_and_then_it_is_drained():
    with on_stage() as stage:
        clients = Clients(stage)
        clients.submit("all", 3)
        clients.pin("some", 2)
        stage.turn()
        stage.changes.execute(Switch(prepared(stage)))
        clients.submit("all", 1)
        assert stage.reports[-1] == Switched(2)
        stage.finish()
        assert stage.reports[-1] == Switched(2), "one is on its way"
        clients.arrive()
        assert [generation for generation, _ in clients.requests] == [1, 2, 1]
        stage.finish()
        clients.check()
        assert stage.reports[-1] == Drained(1)
        stage.release(1)
        assert stage.reports[-1] == Released(1)


def test_a_deployment_that_is_given_up_goes_though_it_never_came():
    with on_stage() as stage:
        stage.prepare()
        stage.release(2)
        for device in DEVICES:
            stage.load(device)
        stage.turn()
        assert stage.reports == [Released(2)], "and not prepared"
        stage.changes.execute(Release(7))
        assert stage.reports[-1] == Released(7), "it was never known"


def test_what_is_held_ends_and_others_do_without_it():
    with on_stage() as stage:
        clients = Clients(stage)
        clients.submit("all", 1)
        clients.submit("some", 1)
        stage.turn()
        stage.changes.execute(Hold(2, ("all",), ("a",)))
        assert clients.find("all") is None
        stage.turn()
        assert stage.reports == []
        stage.finish()
        assert stage.reports == [Held(2)]
        clients.submit("some", 1)
        stage.finish()
        answers = [request.on_done.result() for _, request in clients.requests]
        assert [(answer.used, answer.degraded) for answer in answers] == [
            (0b111, False),
            (0b111, False),
            (0b110, True),
        ]
        stage.changes.execute(Resume())
        clients.submit("all", 1)
        stage.finish()
        clients.check()
        assert clients.requests[-1][1].on_done.result().used == 0b111


def test_counters_go_on_and_nothing_grows_with_the_number_of_changes():
    with on_stage() as stage:
        gc.collect()
        gc.disable()
        try:
            clients, gone = Clients(stage), []
            for _ in range(15):
                former = stage.deployments.current.generation
                clients.submit("some", 2)
                stage.finish()
                number = prepared(stage)
                stage.switch()
                stage.turn()
                gone.append(weakref.ref(stage.engine.arenas[former - 1]))
                stage.release(former)
                stage.turn()
                stage.unload()
                assert [*stage.engine.arenas] == [number - 1]
            (counters,) = stage.fleet.member_counters.values()
            assert [counted.rows for counted in counters] == [30, 30, 30]
            assert [reference() for reference in gone] == [None] * 15
            assert len(stage.engine._admission._flows._flows) == 1
            sizes = [len(worker.placements) for worker in stage.fleet.workers.values()]
            assert sizes == [len(members) for members in DEVICES.values()]
            devices = [worker.state for worker in stage.fleet.workers.values()]
            placements = [p for member in stage.fleet._all_members for p in member.placements]
            assert {id(p.device) for p in placements} == {id(device) for device in devices}
        finally:
            gc.enable()


def test_a_request_of_a_deployment_that_drains_may_still_be_closed():
    with on_stage() as stage:
        clients = Clients(stage)
        stage.die("d0")
        clients.submit("all", 5)
        stage.turn()
        stage.revive("d0")
        stage.changes.execute(Switch(prepared(stage)))
        ((_, request),) = clients.requests
        stage.engine.close(request, DeadlineExceeded("too late"))
        stage.finish()
        assert Drained(1) in stage.reports


def test_it_is_not_drained_before_the_workers_have_said_that_their_jobs_are_over():
    with on_stage() as stage:
        Clients(stage).submit("all", 1)
        stage.turn()
        for device in DEVICES:
            for _ in range(3):
                stage.work(device, SURE)
        stage.scan()
        stage.hear(9)
        assert stage.requests[0].on_done.done()
        said, stage.turns = stage.turns, type(stage.turns)()
        stage.changes.execute(Switch(prepared(stage)))
        stage.turn()
        assert stage.reports[-1] == Switched(2)
        stage.turns += said
        stage.turn()
        stage.turn()
        assert stage.reports[-1] == Drained(1)


def test_rows_for_an_instance_that_makes_room_on_one_device_are_predicted_on_another():
    """A worker may learn of it before the front-end does."""
    with on_stage() as stage:
        stage.may_miss = True
        clients = Clients(stage)
        for _ in range(3):
            clients.submit("some", 2, members=0b110)  # of which both devices have instances
        stage.turn()
        stage.loaded["d0"] = {0}
        for tell in (lambda: None, lambda: stage.hello("d0")):
            assert stage.jobs["d0"]
            while stage.jobs["d0"]:
                stage.work("d0", SURE)
            tell()
            stage.turn()
            stage.turn()
        assert not stage.jobs["d0"]
        stage.finish()
        clients.check()
        assert {request.on_done.result().used for _, request in clients.requests} == {0b110}
