import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from allocator.problem import NoPlaceError, Problem
from allocator.search.greedy import AnalyticScorer, Move, best_batches, greedy, worst_fit
from allocator.search.throughput import solve_throughput
from tests.allocator.test_problem import device, problems, profiles

FEW = settings(max_examples=30)
SMALL = problems(batches=(1, 2, 8))


class Counting(AnalyticScorer):
    """Counts what it is asked."""

    def __init__(self, problem):
        super().__init__(problem)
        self.moves = self.whole = 0

    def score(self, cells):
        self.whole += 1
        return super().score(cells)

    def score_move(self, move):
        self.moves += 1
        return super().score_move(move)


def start_of(problem):
    try:
        return worst_fit(problem)
    except NoPlaceError:
        assume(False)


@FEW
@given(SMALL, st.integers(0, 4), st.integers(1, 12), st.integers(0, 3))
def test_greedy_is_bounded_repeatable_feasible_and_never_worse(problem, steps, neighbours, seed):
    start = start_of(problem)

    def run():
        scorer = Counting(problem)
        cells = greedy(
            problem, start, scorer, max_iterations=steps, max_neighbours=neighbours, seed=seed
        )
        return cells, scorer

    cells, scorer = run()
    assert scorer.moves <= steps * neighbours
    assert scorer.whole <= steps + 1
    assert problem.faults(problem.matrix(cells)) == []
    assert solve_throughput(problem, cells)[0] >= solve_throughput(problem, start)[0]
    assert (run()[0] == cells).all()


@FEW
@given(SMALL)
def test_batches_are_tuned_and_instances_stay(problem):
    start = start_of(problem)
    cells = best_batches(problem, start, AnalyticScorer(problem))
    assert ((cells > 0) == (start > 0)).all()
    assert problem.faults(problem.matrix(cells)) == []
    assert solve_throughput(problem, cells)[0] >= solve_throughput(problem, start)[0]


@FEW
@given(SMALL)
def test_a_move_is_scored_as_the_cells_it_leads_to(problem):
    scorer, start = AnalyticScorer(problem), start_of(problem)
    before = scorer.score(start)
    for at in np.ndindex(*start.shape):
        for option in problem.options(*at):
            after = start.copy()
            after[at] = option.batch
            scored = scorer.score_move(Move(*at, option.batch))
            assert abs(scored - solve_throughput(problem, after)[0]) <= 1e-6 * scored
    assert abs(scorer.score(start) - before) <= 1e-6 * before


def test_greedy_climbs_to_what_is_best_here():
    devices = (device("cuda:0", 30), device("cuda:1", 10))
    problem = Problem(("a", "b"), devices, profiles(a={1: (10, 5), 4: (30, 20)}, b={1: (30, 10)}))
    start = np.array([[1, 1], [0, 0]])
    best = greedy(problem, start, AnalyticScorer(problem))
    # `a` at its best next to `b`, and `b` on the other device, too.
    assert best.tolist() == [[4, 1], [0, 1]]


def test_greedy_keeps_what_it_has_when_it_may_not_go_on():
    devices = (device("cuda:0", 30), device("cuda:1", 30))
    problem = Problem(("a",), devices, profiles(a={1: (10, 5), 2: (20, 10)}))
    start, answers = np.array([[1], [0]]), iter([True, True, True, False])
    scorer = Counting(problem)
    cells = greedy(problem, start, scorer, keep_going=lambda: next(answers))
    assert scorer.moves == 3
    assert cells.tolist() == [[1], [2]]


def test_a_score_may_be_anything():
    class Instances:
        """As few instances as can be: an instance less is better."""

        def score(self, cells):
            self.cells = cells
            return -float(np.count_nonzero(cells))

        def score_move(self, move):
            cells = self.cells.copy()
            cells[move.device, move.member] = move.batch
            return -float(np.count_nonzero(cells))

    devices = (device("cuda:0", 30), device("cuda:1", 30))
    problem = Problem(("a",), devices, profiles(a={1: (10, 5)}))
    assert greedy(problem, np.array([[1], [1]]), Instances()).sum() == 1
