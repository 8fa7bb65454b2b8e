import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.profiling.comparison import LEAST_BLOCKS, SAME, compare, preferred_batch

SIZES = (1, 2, 4)
LATENCIES = (0.010, 0.018, 0.040)


@given(st.lists(st.floats(0.1, 10), min_size=LEAST_BLOCKS, max_size=40))
def test_what_slows_a_whole_block_down_does_not_count(slowness):
    found = compare(SIZES, [[one * factor for one in LATENCIES] for factor in slowness])
    assert found.latency_s[1] / found.latency_s[2] == pytest.approx(10 / 18)
    assert found.latency_s[4] / found.latency_s[2] == pytest.approx(40 / 18)
    assert list(found.noise.values()) == pytest.approx([0, 0, 0], abs=1e-12)
    assert found.is_precise


def test_the_noise_is_the_standard_error_of_what_a_size_is_found_to_be():
    generator = np.random.default_rng(0)
    found = [
        compare(SIZES, LATENCIES * np.exp(generator.normal(0, 0.03, (64, len(SIZES)))))
        for _ in range(400)
    ]
    for size in (1, 4):
        ratios = [np.log(one.latency_s[size] / one.latency_s[2]) for one in found]
        stated = np.mean([one.noise[size] for one in found])
        assert stated == pytest.approx(np.std(ratios), rel=0.2)
    assert all(one.noise[2] == 0 for one in found)


def test_a_moment_in_which_others_were_busy_does_not_count():
    blocks = np.tile(LATENCIES, (LEAST_BLOCKS, 1))
    blocks[3, 1] *= 10
    assert compare(SIZES, blocks) == compare(SIZES, np.tile(LATENCIES, (LEAST_BLOCKS, 1)))


def test_it_is_precise_when_smaller_sizes_are_told_from_the_fastest():
    generator = np.random.default_rng(0)
    noise = np.exp(generator.normal(0, 0.05, (LEAST_BLOCKS, 3)))
    assert not compare(SIZES, LATENCIES * noise).is_precise
    assert compare(SIZES, np.array((0.010, 0.040, 0.090)) * noise).is_precise  # none is smaller


@pytest.mark.parametrize(
    ("rates", "noise", "preferred"),
    [
        ({1: 99.5, 2: 100.0}, {1: 0.0, 2: 0.0}, 1),
        ({1: 98.0, 2: 100.0}, {1: 0.0, 2: 0.0}, 2),
        ({1: 98.0, 2: 100.0}, {1: 0.011, 2: 0.0}, 1),
        ({1: 98.0, 2: 100.0}, {1: 0.0, 2: 0.011}, 1),
        ({1: 90.0, 2: 99.5, 4: 100.0, 8: 99.0}, {1: 0.0, 2: 0.0, 4: 0.0, 8: 0.0}, 2),
        ({1: 99.9, 2: 100.0}, {}, 2),
        ({1: 99.9, 2: 99.8, 4: 100.0}, {2: 0.0, 4: 0.0}, 2),
        ({1: 99.9, 2: 99.8, 4: 100.0}, {1: 0.0, 2: 0.0}, 4),
    ],
)
def test_the_smallest_size_within_the_noise_is_preferred(rates, noise, preferred):
    assert SAME == 0.01
    assert preferred_batch(rates, noise) == preferred
