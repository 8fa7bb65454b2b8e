"""The controller with the real search; the clock is the test's own."""

import pytest

from allocator.matrix import AllocationMatrix
from allocator.problem import Device, Problem
from allocator.profiles import Profile, Profiles
from server.following.controller import Controller, FollowLimits
from server.following.search import Candidate, Found, find_better
from server.following.traffic import InstanceTraffic, ModelTraffic, Traffic

LIMITS = FollowLimits(window_s=60.0, pause_s=120.0, search_s=2.0, fill=False)
MEMBERS = ("a", "b", "c")
STAGES = {name: [[name]] for name in MEMBERS}
PRESENT = AllocationMatrix(MEMBERS, ("cuda:0", "cuda:1"), ((1, 1, 0), (0, 0, 1)))


def problem(memory=10):
    devices = tuple(Device(f"cuda:{index}", "A", memory) for index in range(2))
    return Problem(MEMBERS, devices, Profiles(Profile(name, "A", 1, 0.01, 5) for name in MEMBERS))


class Site:
    """A server whose traffic and devices the test plays, five seconds a step."""

    def __init__(self, limits=LIMITS, load_s=1.0, memory=10):
        self.controller, self.limits = Controller(load_s=load_s), limits
        self.now, self.generation, self.problem = 0.0, 0, problem(memory)
        self.decisions = []
        self.succeeds = True
        self.serve(PRESENT)

    def serve(self, matrix):
        self.matrix = matrix
        self.generation += 1
        self.controller.serve(
            self.generation,
            limits=self.limits,
            problem=self.problem,
            stages=STAGES,
            matrix=matrix,
            now=self.now,
        )

    def play(self, seconds, instances=None, **rows):
        """Serve so many rows a step of each member; follow what the controller decides."""
        for _ in range(round(seconds / 5)):
            self.now += 5.0
            models = {name: ModelTraffic(n, n) for name, n in rows.items()}
            traffic = Traffic(self.generation, 5.0, models, rows, instances or {})
            self.controller.observe(traffic, self.now)
            self.step()
        return self.matrix

    def step(self):
        task = self.controller.next_task(self.now)
        if task is None:
            return
        decision = self.controller.decide(task, find_better(task), self.now)
        self.decisions.append((self.now, decision))
        if decision.move is None:
            return
        if self.succeeds:
            self.serve(AllocationMatrix.from_json(decision.move.matrix))
            self.controller.changed(decision.move, 4.0)
        else:
            self.controller.refused(self.now)

    @property
    def moves(self):
        return [(now, one) for now, one in self.decisions if one.move]


def test_it_moves_to_where_the_traffic_is_and_back():
    site = Site()
    site.play(600, a=10, b=10, c=20)
    assert site.moves == [], "the present allocation is the best one"
    matrix = site.play(600, a=100, b=2, c=2)
    ((moved, decision),) = site.moves
    assert [row[0] for row in matrix.cells] == [1, 1]
    assert moved - 600 <= 2 * LIMITS.window_s
    assert "rows/s of the present mix are possible" in decision.reason
    matrix = site.play(600, a=2, b=2, c=100)
    assert [row[2] for row in matrix.cells] == [1, 1]
    assert len(site.moves) == 2


def test_a_small_gain_is_no_reason_to_move():
    site = Site()
    site.play(900, a=30, b=24, c=50)
    assert site.moves == []
    assert len(site.decisions) <= 2, "it does not search for the same again and again"


def test_a_mix_that_goes_to_and_fro_does_not_make_it_flip():
    site = Site()
    for _ in range(60):
        site.play(15, a=100, b=2, c=2)
        site.play(15, a=2, b=2, c=100)
    assert len(site.moves) <= 1


def test_a_burst_that_is_over_moves_nothing():
    site = Site()
    site.play(300, a=10, b=10, c=20)
    site.play(25, a=100, b=2, c=2)
    site.play(300, a=10, b=10, c=20)
    assert site.moves == []


def test_after_a_change_it_waits():
    site = Site()
    site.play(300, a=100, b=2, c=2)
    ((first, _),) = site.moves
    site.play(300, a=2, b=2, c=100)
    second = site.moves[1][0]
    assert second - first >= LIMITS.pause_s


def test_a_change_that_costs_more_than_it_gains_is_not_made():
    site = Site(load_s=800.0)
    site.play(600, a=100, b=2, c=2)
    assert site.moves == []
    assert "cost 133.3%" in site.decisions[0][1].reason


def test_costs_are_those_of_the_changes_that_were_made():
    site = Site(load_s=60.0)
    site.play(300, a=100, b=2, c=2)
    site.play(300, a=2, b=2, c=100)
    first, second = (one.reason for _, one in site.moves)
    assert "cost 10.0%" in first
    assert "cost 5.3%" in second


def test_little_traffic_says_nothing():
    site = Site()
    site.play(600, a=1)
    assert site.decisions == []


def test_that_nothing_changes_is_told_now_and_then():
    site = Site()
    for rows in range(10, 100, 4):
        site.play(100, a=10, b=10, c=rows // 2)
    stays = [one for _, one in site.decisions if not one.move]
    assert len([one for one in stays if one.is_notable]) <= 2 < len(stays)


def test_members_of_a_lost_device_move_to_what_is_left_at_once_and_back():
    site = Site(memory=20)
    site.play(20, a=10, b=10, c=20)
    site.controller.lose("cuda:1", site.now)
    site.step()
    assert site.matrix.devices == ("cuda:0",)
    assert site.controller.lost == {"cuda:1"}
    ((_, decision),) = site.moves
    assert "lost: cuda:1" in decision.reason
    site.play(600, a=10, b=10, c=20)
    assert {name for name, _, _ in site.matrix.instances()} == {"cuda:0", "cuda:1"}
    assert site.controller.lost == set()


def test_a_device_that_stays_lost_is_tried_ever_more_rarely():
    site = Site(memory=20)
    site.controller.lose("cuda:1", site.now)
    site.step()
    site.succeeds = False
    site.play(3600, a=10, b=10, c=20)
    trials = [now for now, one in site.moves[1:]]
    gaps = [after - before for before, after in zip(trials, trials[1:], strict=False)]
    assert trials[0] == pytest.approx(60, abs=5)
    assert gaps == sorted(gaps)
    assert 3 <= len(trials) <= 6
    assert site.matrix.devices == ("cuda:0",)


def test_members_that_do_not_fit_what_is_left_are_told():
    site = Site()
    site.controller.lose("cuda:1", site.now)
    site.step()
    ((_, decision),) = site.decisions
    assert decision.move is None
    assert decision.is_notable
    assert "no other allocation: member 'c' needs 5 bytes" in decision.reason


def test_a_device_that_comes_back_by_itself_is_not_lost():
    site = Site(memory=20)
    site.controller.lose("cuda:1", site.now)
    site.controller.regain("cuda:1")
    site.play(600, a=10, b=10, c=20)
    assert site.moves == []


def test_a_refused_change_is_not_repeated_soon():
    site = Site()
    site.succeeds = False
    site.play(1200, a=100, b=2, c=2)
    assert 1 < len(site.moves) <= 3
    assert site.matrix == PRESENT


def test_a_device_that_has_become_slow_gets_less():
    site = Site(memory=20)
    slow = {
        "cuda:0": {"a": InstanceTraffic(50, 50, 0.5), "b": InstanceTraffic(50, 50, 0.5)},
        "cuda:1": {"c": InstanceTraffic(50, 50, 2.0)},
    }
    matrix = site.play(600, instances=slow, a=10, b=10, c=20)
    assert site.moves
    assert matrix.batch("cuda:0", "c") == 1


def test_traffic_of_another_generation_does_not_count():
    site = Site()
    other = Traffic(7, 600.0, {"a": ModelTraffic(9999, 9999)}, {"a": 9999})
    site.now = 600.0
    site.controller.observe(other, site.now)
    assert site.controller.next_task(site.now) is None


def test_without_any_device_there_is_nothing_to_search():
    site = Site()
    for device in ("cuda:0", "cuda:1"):
        site.controller.lose(device, site.now)
    assert site.controller.next_task(site.now) is None


def test_an_infinite_gain_goes_to_the_fastest():
    controller = Controller(load_s=1.0)
    controller.serve(1, limits=LIMITS, problem=problem(), stages=STAGES, matrix=PRESENT, now=0.0)
    controller.lose("cuda:0", 1.0)
    task = controller.next_task(1.0)
    slow, fast = Candidate(10.0, (), "slow"), Candidate(20.0, (), "fast")
    decision = controller.decide(task, Found(Candidate(0.0), (slow, fast)), 2.0)
    assert decision.move is fast
