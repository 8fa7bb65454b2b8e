"""`select` as a whole, on members that are right by chance."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from allocator.profiles import Profiles
from allocator.search.search import search
from server.errors import ConfigError
from server.selection.options import Constraints
from server.selection.picking import pick
from server.selection.placing import Placer
from server.selection.quality import MEASURES
from server.selection.search import SelectOptions, select
from tests.support.libraries import library, priced

EQUAL = {"weights": False, "cascades": False}


def values(points, *, selected=False):
    return [(p.selected_quality if selected else p.quality, p.cost.rows_per_s) for p in points]


def brute_force(predictions, y, problem):
    """All sets with equal weights, by descending rows/s: those that no other one dominates."""
    found = []
    for size in range(1, len(predictions) + 1):
        for chosen in itertools.combinations(range(len(predictions)), size):
            names = tuple(problem.members[i] for i in chosen)
            rows_per_s = search(replace(problem, members=names)).throughput_rows_s
            right = predictions[list(chosen)].mean(axis=0).argmax(axis=1) == y
            found.append((rows_per_s, right.mean()))
    front, best = [], -math.inf
    for rows_per_s, quality in sorted(found, reverse=True):
        if quality > best:
            front.append((quality, rows_per_s))
            best = quality
    return front


@pytest.mark.parametrize("seed", range(3))
def test_the_front_of_equal_weights_is_that_of_brute_force(seed):
    predictions, y, problem = library(5, 120, seed=seed, devices=1 + seed)
    found = select(predictions, y, problem, SelectOptions(test=(predictions, y), **EQUAL))
    expected = brute_force(predictions, y, problem)
    assert values(found.front) == [pytest.approx(one, rel=1e-6) for one in expected]
    assert values(found.front, selected=True) == values(found.front)


def test_what_bounds_spare_would_not_have_been_on_the_front(monkeypatch):
    predictions, y, problem = library(4, 150)
    placed = []
    place = Placer._place

    def count(self, one):
        placed.append(one.candidate)
        place(self, one)

    monkeypatch.setattr(Placer, "_place", count)
    pruned = select(predictions, y, problem, SelectOptions())
    spared = len(placed)
    monkeypatch.setattr(Placer, "_is_hopeless", lambda self, one, rate: False)
    full = select(predictions, y, problem, SelectOptions())
    assert spared < (len(placed) - spared) / 2
    assert values(pruned.front) == [pytest.approx(one) for one in values(full.front)]


@pytest.mark.parametrize("members", [5, 13])
def test_a_selection_has_a_front_a_knee_and_baselines(members):
    predictions, y, problem = library(members, 300)
    told = []
    options = SelectOptions(on_progress=lambda what, done, total: told.append(what))
    found = select(predictions, y, problem, options)
    rates, qualities = zip(*[(p.cost.rows_per_s, p.quality) for p in found.front], strict=True)
    assert sorted(set(rates), reverse=True) == list(rates)
    assert sorted(set(qualities)) == list(qualities)
    assert set(found.baselines) == {"best_single", "all", "caruana", "top_k"}
    assert found.baselines["all"].candidate.members == problem.members
    assert len(found.baselines["top_k"].candidate.members) == len(found.knee.candidate.members)
    assert found.selected_on + found.judged_on == 300
    assert {"sets", "weights and cascades", "placing", "judging"} == set(told)
    assert any(point.candidate.cascade for point in found.front)
    for point in (*found.front, *found.dominated, *found.baselines.values()):
        low, high = point.quality_interval
        assert low <= point.quality <= high
        assert sum(point.candidate.weights) == pytest.approx(1)
        assert point.cost.allocation.matrix.members == point.candidate.members
        assert point.cost.gap < 0.01


def test_points_are_picked_by_what_was_searched():
    predictions, y, problem = library(4, 200)
    found = select(predictions, y, problem, SelectOptions())
    points = (*found.front, *found.dominated)
    assert pick(found, "knee") == found.knee
    assert found.knee in points
    best = pick(found, "best")
    assert best.selected_quality == max(point.selected_quality for point in points)
    assert pick(found, "1") == found.front[0]
    for wrong in ("0", str(len(found.front) + 1), "fastest"):
        with pytest.raises(ConfigError, match="knee, best or a number from 1 to"):
            pick(found, wrong)


def test_judged_rows_decide_nothing():
    predictions, y, problem = library(4, 200)
    test = library(4, 60, seed=5)[:2]
    found = select(predictions, y, problem, SelectOptions(test=test))
    other = select(predictions, y, problem, SelectOptions(test=(test[0], (test[1] + 1) % 3)))
    assert found.knee.candidate == other.knee.candidate

    def all_of(selection):
        points = (*selection.front, *selection.dominated)
        return sorted((p.selected_quality, p.candidate.members) for p in points)

    assert all_of(found) == all_of(other)


def test_a_seed_repeats_a_selection():
    predictions, y, problem = library(13, 100)
    first, again = (select(predictions, y, problem, SelectOptions(seed=3)) for _ in range(2))
    assert values(first.front) == values(again.front)
    assert first.knee.candidate == again.knee.candidate


def test_a_selection_that_is_cut_short_says_so():
    predictions, y, problem = library(14, 200)
    found = select(predictions, y, problem, SelectOptions(time_limit_s=0.01))
    assert found.front
    assert "cut short" in found.notes[0]


def test_members_of_a_pick_are_limited():
    predictions, y, problem = library(14, 200)
    found = select(predictions, y, problem, SelectOptions(most_members=2))
    points = (*found.front, *found.dominated)
    assert max(len(point.candidate.members) for point in points) == 2


def test_numbers_are_selected_by_their_error():
    random = np.random.default_rng(0)
    y = random.normal(size=(200, 2))
    predictions = y + random.normal(size=(6, 200, 2)) * np.linspace(1.5, 0.5, 6)[:, None, None]
    problem = priced([f"m{i}" for i in range(6)], 2)
    found = select(predictions, y, problem, SelectOptions(measure=MEASURES["rmse"]))
    assert not found.higher_is_better
    qualities = [point.quality for point in found.front]
    assert qualities == sorted(qualities, reverse=True)
    assert pick(found, "best").quality < found.baselines["best_single"].quality
    assert all(point.candidate.cascade is None for point in found.front)
    weights = [point.candidate.weights for point in found.front]
    assert any(len(set(one)) > 1 for one in weights)


def test_other_costs_span_the_front():
    predictions, y, problem = library(4, 200, joules=0.5)
    options = SelectOptions(costs=("memory_bytes", "devices", "joules_per_row"), **EQUAL)
    found = select(predictions, y, problem, options)
    fewest = min(found.front, key=lambda point: point.cost.memory_bytes)
    assert fewest.cost.devices == 1
    assert fewest.cost.memory_bytes == len(fewest.candidate.members) << 20
    assert all(point.cost.joules_per_row for point in found.front)


def test_latency_at_a_rate_spans_the_front():
    predictions, y, problem = library(2, 200)
    options = SelectOptions(costs=("p99_ms",), rate_rows_s=20.0, weights=False)
    found = select(predictions, y, problem, options)
    latencies = [point.cost.p99_s for point in found.front]
    assert latencies == sorted(latencies)
    assert 0 < latencies[0] <= latencies[-1] < 1
    limits = Constraints(max_p99_s=latencies[0])
    limited = select(predictions, y, problem, replace(options, constraints=limits))
    assert [point.cost.p99_s for point in limited.front] == latencies[:1]


def test_limits_are_kept():
    predictions, y, problem = library(5, 200)
    free = select(predictions, y, problem, SelectOptions(**EQUAL))
    least = sorted(point.cost.rows_per_s for point in free.front)[1]
    limits = Constraints(min_rows_per_s=least)
    found = select(predictions, y, problem, SelectOptions(constraints=limits, **EQUAL))
    assert all(point.cost.rows_per_s >= least for point in (*found.front, *found.dominated))
    limits = Constraints(max_devices=1, max_memory_bytes=3 << 20)
    found = select(predictions, y, problem, SelectOptions(constraints=limits, **EQUAL))
    for point in (*found.front, *found.dominated):
        assert point.cost.devices == 1
        assert point.cost.memory_bytes <= 3 << 20


@pytest.mark.parametrize(
    ("limits", "nearest"),
    [
        (Constraints(min_rows_per_s=1e9), "the nearest one is m0 with .* rows/s"),
        (Constraints(max_memory_bytes=1), r"m0 with 1.049e\+06 bytes of memory"),
        (Constraints(max_p99_s=1e-6), "m0 with .* ms at the 99th percentile"),
        (Constraints(max_joules_per_row=1.0), "m. with an energy that is neither measured"),
    ],
)
def test_limits_that_nothing_keeps_name_what_is_nearest(limits, nearest):
    predictions, y, problem = library(3, 100)
    options = SelectOptions(constraints=limits, rate_rows_s=1.0, **EQUAL)
    with pytest.raises(ConfigError, match=nearest):
        select(predictions, y, problem, options)


@pytest.mark.parametrize("costs", [("joules_per_row",), ("rows_per_s", "joules_per_row")])
def test_a_front_has_no_points_of_unknown_costs(costs):
    predictions, y, problem = library(3, 100)
    with pytest.raises(ConfigError, match="an energy that is neither measured nor estimated"):
        select(predictions, y, problem, SelectOptions(costs=costs, **EQUAL))
    options = SelectOptions(costs=("p99_ms",), rate_rows_s=1e9, **EQUAL)
    with pytest.raises(ConfigError, match="no more rows/s than --rate asks for"):
        select(predictions, y, problem, options)


def test_members_that_cannot_take_part_are_left_out():
    predictions, y, problem = library(4, 100)
    predictions[1, 7] = np.nan
    profiles = Profiles(one for one in problem.profiles if one.member != "m2")
    found = select(predictions, y, replace(problem, profiles=profiles), SelectOptions())
    assert found.left_out == {
        "m1": "its predictions are not all finite numbers",
        "m2": "it has no profile that fits any of the devices",
    }
    assert found.diversity.members == ("m0", "m3")
    with pytest.raises(ConfigError, match="no member can take part"):
        select(predictions, y, replace(problem, profiles=Profiles([])), SelectOptions())


def test_diversity_tells_what_each_member_adds():
    predictions, y, problem = library(4, 200)
    predictions[3] = predictions[2]
    diversity = select(predictions, y, problem, SelectOptions(**EQUAL)).diversity
    disagreement = np.array(diversity.disagreement)
    assert disagreement[2, 3] == 0 < disagreement[0, 1]
    np.testing.assert_array_equal(disagreement, disagreement.T)
    assert diversity.error_correlation[2][3] == pytest.approx(1)
    assert [name for name, _ in diversity.gain][0] in ("m2", "m3")
    assert len(diversity.gain) == 4


def wrong(**change):
    predictions, y, problem = library(3, 100)
    given = {"predictions": predictions, "y": y, "options": SelectOptions()} | change
    return given["predictions"], given["y"], problem, given["options"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (wrong(predictions=np.zeros((2, 100, 3))), r"predictions of 3 members should be \[3, rows"),
        (wrong(y=np.zeros(99, np.int64)), r"y should be \[100\]"),
        (wrong(y=np.full(100, 3)), r"y\[0\] is 3, but there are classes 0 to 2"),
        (wrong(y=np.ones(100, np.int64)), "the rows are all of class 1"),
        (wrong(predictions=np.zeros((3, 0, 3)), y=np.zeros(0, np.int64)), "no labelled rows"),
        (wrong(y=np.full((100, 3), np.nan)), "y should be finite numbers"),
        (wrong(y=np.zeros((100, 3))), "accuracy is not for numbers"),
        (wrong(options=SelectOptions(measure=MEASURES["rmse"])), "rmse is not for classes"),
        (
            wrong(options=SelectOptions(test=(np.zeros((3, 30, 4)), np.arange(30) % 3))),
            r"--test: predictions of a row have shape \[4\], those of --data \[3\]",
        ),
        (wrong(options=SelectOptions(holdout=0.01)), "rows are held out"),
    ],
)
def test_wrong_input_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        select(*given)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"costs": ()}, "should be of rows_per_s, p99_ms"),
        ({"costs": ("p99_ms",)}, "give a rate"),
        ({"most_members": 0}, "1 or more"),
        ({"holdout": 1.0}, "between 0 and 1"),
        ({"time_limit_s": 0.0}, "above 0"),
    ],
)
def test_wrong_options_are_refused(option, message):
    with pytest.raises(ConfigError, match=message):
        SelectOptions(**option)
    with pytest.raises(ConfigError, match="--max-devices should be a number above 0"):
        Constraints(max_devices=0)
