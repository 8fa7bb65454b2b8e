"""The placement study: its estimates, and the paper's two extremes."""

import itertools
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from allocator.matrix import AllocationMatrix
from allocator.profiles import Profiles
from allocator.search.throughput import solve_throughput
from benchmarks.results_file import Hardware
from benchmarks.study.cases import (
    ENSEMBLES,
    MEMORIES,
    mixed_case,
    naive_placements,
    one_case,
    sweep_case,
    twelve_case,
)
from benchmarks.study.networks import ACCELERATORS, NETWORKS
from benchmarks.study.outcomes import SOLVERS, Study
from benchmarks.study.page import page
from benchmarks.study.playing import play
from benchmarks.study.roofline import (
    BATCH_SIZES,
    BEST_EFFICIENCY,
    efficiency,
    estimate,
    latency_s,
    memory_bytes,
    reference_ratio,
    write_profiles,
)
from benchmarks.study.solving import Effort, solve

ROOT = Path(__file__).resolve().parents[2]
PAIRS = list(itertools.product(NETWORKS.values(), ACCELERATORS.values()))


@pytest.mark.parametrize(("network", "on"), PAIRS, ids=lambda one: getattr(one, "title", None))
def test_a_bigger_batch_takes_longer_and_does_more_per_second(network, on):
    seconds = [latency_s(network, on, batch) for batch in BATCH_SIZES]
    rates = [batch / taken for batch, taken in zip(BATCH_SIZES, seconds, strict=True)]
    memory = [memory_bytes(network, on, batch) for batch in BATCH_SIZES]

    assert seconds == sorted(set(seconds))
    assert rates == sorted(set(rates))
    assert memory == sorted(set(memory))
    # It saturates: each doubling of the batch gains less than doubling, at last little.
    gains = [after / before for before, after in itertools.pairwise(rates)]
    assert max(gains) < 2
    assert gains[-1] < 1.25
    assert efficiency(network, on, 1) < efficiency(network, on, 128) < BEST_EFFICIENCY


def test_estimates_are_within_a_factor_of_two_of_what_others_measured():
    ratios = [ratio for one in NETWORKS.values() if (ratio := reference_ratio(one))]

    assert len(ratios) >= 20
    assert 0.5 < min(ratios) <= max(ratios) < 2
    assert 0.8 < float(np.median(ratios)) < 1.25


def test_dense_blocks_are_counted_from_their_structure():
    # By hand: every layer of four blocks, three transitions and the end normalise once.
    by_hand = 0
    features, side = 64, 56
    for layers in (6, 12, 24, 16):
        for _ in range(layers):
            by_hand += features * side**2
            features += 32
        by_hand += features * side**2
        features //= 2
        side //= 2

    assert NETWORKS["densenet121"].concatenated == by_hand
    assert NETWORKS["resnet50"].concatenated == 0


def test_the_profiles_file_is_what_the_roofline_says_and_says_that_it_is_estimated():
    text = (ROOT / "configs/profiles/estimated.json").read_text(encoding="utf-8")

    assert text == write_profiles() + "\n"
    assert json.loads(text)["estimated"] is True
    assert len(Profiles.from_json(text)) == len(PAIRS) * len(BATCH_SIZES)


def test_a_faster_device_is_faster():
    fast, slow = estimate(["resnet50"], ["h200"]), estimate(["resnet50"], ["t4"])

    for one, other in zip(fast, slow, strict=True):
        assert one.latency_s < other.latency_s


def test_ensembles_begin_alike_and_are_all_known():
    members = list(ENSEMBLES.values())

    assert [len(one) for one in members] == [1, 4, 8, 12]
    for small, big in itertools.pairwise(members):
        assert big[: len(small)] == small
    assert set(members[-1]) <= set(NETWORKS)


def test_naive_placements_fit_less_and_less_as_memory_shrinks():
    fitting = [
        {(one.rule, one.batch) for one in naive_placements(twelve_case(memory).problem)
         if one.cells is not None}
        for memory in MEMORIES
    ]  # fmt: skip

    for more, less in itertools.pairwise(fitting):
        assert less <= more
    assert fitting[0]
    assert not fitting[-1]


def test_everything_everywhere_does_not_fit_whole_gpus_at_the_usual_batch_sizes():
    fits = {
        one.batch
        for one in naive_placements(twelve_case().problem)
        if one.cells is not None and "every GPU" in one.rule
    }

    assert fits == {8}


def test_naive_placements_that_fit_are_feasible():
    for case in (sweep_case(4, 3), mixed_case()):
        for one in naive_placements(case.problem):
            if one.cells is not None:
                assert case.problem.faults(case.problem.matrix(one.cells)) == []
                assert solve_throughput(case.problem, one.cells)[0] > 0


QUICK = Effort(time_limit_s=2.0, patient_greedy=True)


@pytest.fixture(scope="module")
def tight():
    """Twelve networks on four GPUs with 2 GiB each."""
    return solve(twelve_case(2 << 30), QUICK)


@pytest.fixture(scope="module")
def one_on_sixteen():
    return solve(one_case(16), QUICK)


def test_twelve_networks_find_a_place_where_no_single_batch_size_fits(tight):
    assert all(one.rows_per_s is None for one in tight.naive)
    assert tight.rate("worst-fit") > 0
    assert tight.rate("exact") >= tight.rate("batch sizes only") > tight.rate("worst-fit")
    matrix = AllocationMatrix(tight.members, tight.devices, tight.solution("exact").matrix)
    assert twelve_case(2 << 30).problem.faults(matrix) == []


def test_exact_finds_a_place_where_worst_fit_finds_none():
    tightest = solve(twelve_case(MEMORIES[-1]), QUICK)

    assert tightest.rate("worst-fit") is None
    assert tightest.rate("exact") > 0
    matrix = AllocationMatrix(tightest.members, tightest.devices, tightest.solution("exact").matrix)
    assert twelve_case(MEMORIES[-1]).problem.faults(matrix) == []


def test_one_network_is_on_all_sixteen_gpus_and_sixteen_times_as_fast(one_on_sixteen):
    exact = one_on_sixteen.solution("exact")
    profiles = one_case(16).problem.profiles
    best = max(one.rows_per_s for one in profiles)

    assert all(row[0] for row in exact.matrix)
    assert exact.rows_per_s == pytest.approx(16 * best, rel=2e-3)
    assert one_on_sixteen.bound == pytest.approx(exact.rows_per_s, rel=1e-3)


def test_one_network_on_sixteen_gpus_is_as_fast_in_the_simulator(one_on_sixteen):
    exact = one_on_sixteen.solution("exact")
    matrix = AllocationMatrix(one_on_sixteen.members, one_on_sixteen.devices, exact.matrix)

    played = play(one_case(16).problem, "exact", matrix, exact.rows_per_s, 0)

    assert played.saturated_rows_per_s == pytest.approx(exact.rows_per_s, rel=0.02)
    assert 0 < played.p50_ms <= played.p99_ms


@pytest.mark.parametrize(
    "case",
    [sweep_case(4, 1), sweep_case(4, 5), sweep_case(8, 3), mixed_case()],
    ids=lambda case: case.name,
)
def test_each_search_is_as_good_as_the_one_it_starts_from(case):
    outcome = solve(case, QUICK)
    worst, batches, greedy, exact = (outcome.rate(solver) for solver in SOLVERS)

    # The exact search may give a thousandth away for fewer instances.
    assert worst <= batches <= exact * 1.0011
    assert worst <= greedy <= exact * 1.0011
    assert exact <= outcome.bound * (1 + 1e-5)  # figures are rounded
    assert outcome.gap == pytest.approx(1 - exact / outcome.bound, abs=1e-3)


@pytest.fixture(scope="module")
def study(tight, one_on_sixteen):
    return Study(
        commit="abc",
        date="2026-01-01T00:00:00+00:00",
        hardware=Hardware("a processor", 2, 8.0),
        software={"python": "3.11"},
        profiles="estimated",
        seed=0,
        sweep_limit_s=1.0,
        extremes_limit_s=1.0,
        elapsed_s=1.0,
        sweep=(one_on_sixteen,),
        twelve=(tight,),
        one=one_on_sixteen,
        mixed=one_on_sixteen,
    )


def test_a_study_survives_its_file(study):
    assert msgspec.json.decode(msgspec.json.encode(study), type=Study) == study


def test_the_page_says_of_every_plot_that_it_is_estimated_and_has_no_empty_figure(study):
    text = page(study)
    plots = [line for line in text.splitlines() if line.startswith("![")]

    assert len(plots) == 4
    assert all("estimated" in line for line in plots)
    assert "Every rate on this page is estimated" in text
    assert "None" not in text
    assert "| nan" not in text


def test_every_row_of_a_table_has_as_many_cells_as_its_head(study):
    widths = [line.count("|") if line.startswith("|") else 0 for line in page(study).splitlines()]

    assert sum(width > 0 for width in widths) > 40
    for one, other in itertools.pairwise(widths):
        assert one == other or 0 in (one, other)


def test_plots_are_the_same_byte_for_byte_and_say_that_they_are_estimated(study, tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks.study.plots import write_plots

    first, second = (write_plots(study, tmp_path / name) for name in ("a", "b"))

    assert [file.name for file in first] == ["sweep.svg", "twelve.svg", "one.svg", "matrix.svg"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert b"estimated" in one.read_bytes()
