import numpy as np
import pytest

from allocator.problem import Device, NoPlaceError, Problem
from allocator.profiles import Profile, Profiles
from allocator.search.greedy import Move
from allocator.search.latency import SimulatedScorer, search_latency
from allocator.simulation import Poisson

GIB = 1 << 30


def two_members(devices=2, memory=8 * GIB):
    pool = tuple(Device(f"cuda:{i}", "V100", memory) for i in range(devices))
    profiles = [
        Profile(member, "V100", batch, 0.002 + 0.001 * batch, GIB)
        for member in ("a", "b")
        for batch in (1, 8)
    ]
    return Problem(("a", "b"), pool, Profiles(profiles))


def test_a_member_on_both_devices_scores_better_than_on_one():
    profiles = [Profile("a", "V100", 1, 0.008, GIB)]
    pool = tuple(Device(f"cuda:{i}", "V100", GIB) for i in range(2))
    scorer = SimulatedScorer(Problem(("a",), pool, Profiles(profiles)), Poisson(100.0))
    assert scorer.score(np.array([[1], [1]])) > scorer.score(np.array([[1], [0]]))


def test_a_move_scores_as_the_cells_after_it():
    problem = two_members()
    scorer = SimulatedScorer(problem, Poisson(150.0), deadline_s=0.01)
    cells = np.array([[8, 0], [0, 8]])
    scorer.score(cells)
    moved = scorer.score_move(Move(0, 1, 1))
    after = cells.copy()
    after[0, 1] = 1
    assert moved == scorer.score(after)


def test_fewer_late_answers_count_more_than_a_low_percentile():
    problem = two_members()
    cells = np.array([[8, 8], [8, 8]])
    strict = SimulatedScorer(problem, Poisson(150.0), deadline_s=0.004).score(cells)
    patient = SimulatedScorer(problem, Poisson(150.0), deadline_s=1.0).score(cells)
    assert strict < -0.1 < patient < 0


def test_the_search_is_as_good_as_every_start_and_says_what_to_expect():
    problem = two_members()
    allocation, figures = search_latency(problem, rate_rows_s=150.0, deadline_s=0.02)
    assert problem.faults(allocation.matrix) == []
    assert allocation.solver == "simulated"
    assert allocation.gap is not None
    assert 0 <= allocation.gap < 1
    scorer = SimulatedScorer(problem, Poisson(150.0), deadline_s=0.02)
    found = scorer.score(problem.cells_of(allocation.matrix))
    for start in ([[1, 0], [0, 1]], [[8, 0], [0, 8]], [[8, 8], [8, 8]]):
        assert found >= scorer.score(np.array(start))
    assert figures.latency is not None
    assert figures.late_share < 0.01


def test_it_can_be_repeated():
    runs = [search_latency(two_members(), rate_rows_s=100.0, seed=3) for _ in range(2)]
    assert not runs[0][0].time_limited
    assert runs[0][0].matrix == runs[1][0].matrix
    assert runs[0][1] == runs[1][1]


def test_no_place_is_no_place():
    with pytest.raises(NoPlaceError, match="'a'"):
        search_latency(two_members(memory=GIB // 2), rate_rows_s=1.0)
