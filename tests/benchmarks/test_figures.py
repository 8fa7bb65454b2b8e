import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.figures import (
    LimitFigures,
    LoadFigures,
    MemberCost,
    OverheadFigures,
    PayloadFigures,
    ProcessMemory,
    ServingFigures,
    Spread,
    percentile,
)
from benchmarks.limit import LimitRound
from benchmarks.overhead import member_costs
from benchmarks.results_file import Result, make_result, page, read_results, write_result
from benchmarks.serving import Round, load_figures
from benchmarks.table import markdown, quantity, spread
from benchmarks.wrk import WrkResult

ONE = Spread(1.0, 1.0, 1.0)
LIMIT = LimitFigures(2, {"a": 4, "b": 1}, Spread(100, 90, 110), ONE, Spread(2, 2, 2))
LOAD = LoadFigures(16, Spread(93.25, 90, 95), ONE, ONE, Spread(0.9325, 0.9, 0.95), ONE, ONE)
SERVING = ServingFigures(
    "duo", 1024, LIMIT, (LOAD,), (ProcessMemory("ensembled front-end", 60.4, 40.2, 38.9),)
)
OVERHEAD = OverheadFigures(
    (PayloadFigures(1024, 1100, "HTTP JSON", ONE, ONE, ONE, ONE),),
    (MemberCost(1, 32, ONE, ONE), MemberCost(6, 32, ONE, ONE, Spread(2.5, 2, 3))),
)

values = st.lists(st.floats(0, 1e6), min_size=1, max_size=50)


def test_percentiles_of_a_hundred():
    hundred = [float(i) for i in range(100, 0, -1)]
    assert [percentile(hundred, p) for p in (1, 50, 99, 99.5, 100)] == [1, 50, 99, 100, 100]


@given(values, st.floats(0.1, 100))
def test_so_many_values_do_not_exceed_a_percentile(found, percent):
    limit = percentile(found, percent)
    assert limit in found
    assert sum(value <= limit for value in found) >= len(found) * percent / 100 - 1e-6
    assert sum(value < limit for value in found) <= len(found) * percent / 100 + 1e-6


@pytest.mark.parametrize(("found", "percent"), [([], 50), ([1], 0), ([1], 101)])
def test_there_is_no_such_percentile(found, percent):
    with pytest.raises(ValueError, match="a percentile needs values"):
        percentile(found, percent)


def test_spread():
    assert Spread.of([3, 1, 2]) == Spread(2, 1, 3)
    with pytest.raises(ValueError, match="no rounds"):
        Spread.of([])


def test_load_figures_pair_the_server_with_the_limit_of_its_round():
    def result(rate, p50_ms):
        return WrkResult(rate * 2, 2.0, p50_ms, p50_ms * 2, {})

    load = load_figures(
        16,
        [
            Round(LimitRound(100, 10, 20), result(90, 15), result(60, 20)),
            Round(LimitRound(50, 20, 40), result(50, 40), result(50, 40)),
            Round(LimitRound(100, 10, 20), result(80, 12), result(40, 20)),
        ],
    )
    assert load.of_by_hand == Spread(1.5, 1.0, 2.0)
    assert load.rows_per_s == Spread(80, 50, 90)
    assert load.of_limit == Spread(0.9, 0.8, 1.0)
    assert load.p50_of_in_turn == Spread(0.75, 0.6, 1.0)
    assert load.p50_of_slowest == Spread(1.5, 1.2, 2.0)
    assert load.p99_ms == Spread(30, 24, 80)


def test_member_costs_are_compared_within_a_round():
    costs = member_costs({6: [(900, 105), (500, 210)], 1: [(1000, 100), (600, 200)]})
    assert [cost.members for cost in costs] == [1, 6]
    assert costs[0].us_per_extra_member is None
    assert costs[1].us_per_extra_member == Spread(1.5, 1, 2)
    assert costs[1].cpu_us_per_request == Spread(157.5, 105, 210)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (15234.4, "15,234"),
        (99.99, "100"),
        (12.34, "12.3"),
        (0.5, "0.5"),
        (0.01234, "0.0123"),
        (0.00012, "0.00012"),
        (0.0, "0"),
        (-2.5, "-2.5"),
    ],
)
def test_numbers_in_tables(value, text):
    assert spread(Spread(value, value, value)) == f"{text} ({text}–{text})"


def test_sizes_and_tables():
    assert [quantity(size) for size in (12, 1024, 602112, 10 << 20)] == [
        "12 B",
        "1 KB",
        "588 KB",
        "10 MB",
    ]
    assert markdown(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"


def test_results_are_written_read_and_shown(tmp_path):
    for name, figures in (("overhead", OVERHEAD), ("other", SERVING), ("heavy", SERVING)):
        write_result(tmp_path, make_result(name, figures, config="x.yaml", rounds=1, seconds=2))
    results = read_results(tmp_path)
    assert [result.name for result in results] == ["heavy", "overhead", "other"]
    assert results[0].figures == SERVING
    assert results[1].figures == OVERHEAD
    text = (tmp_path / "README.md").read_text()
    assert text == page(results)
    assert "| 16 | 93.2 (90–95) | 0.932 (0.9–0.95) |" in text
    assert "| ensembled front-end | 60 | 40 | 39 |" in text
    assert "| 6 | 32 | 1 (1–1) | 1 (1–1) | 2.5 (2–3) |" in text


def test_a_result_says_nothing_about_where(tmp_path):
    result = make_result("heavy", SERVING, config="x.yaml", rounds=1, seconds=2)
    document = msgspec.to_builtins(result)
    assert document.keys() == set(Result.__struct_fields__)
    assert document["hardware"].keys() == {"cpu", "cores", "memory_gib"}
    assert result.commit.removesuffix("-dirty").isalnum()
